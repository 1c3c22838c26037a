"""Many clients at once in one repository: everybody sees a whole state, and what is acknowledged is there."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.daemon import Daemon

from .content import OCI_EMPTY, OCI_MANIFEST, Pushed, Repository, descriptor, digest_of, encode, image, random_bytes
from .wire import Client

CLIENTS = 6
ROUNDS = 6


def at_once(daemon: Daemon, name: str, work: Callable[[Repository, int], None], clients: int = CLIENTS) -> None:
    """Let several clients, each with a connection and a number of its own, do some work at the same time."""

    def run(number: int) -> None:
        client = Client(daemon.address)
        work(Repository(client, name), number)
        client.close()

    with ThreadPoolExecutor(clients) as pool:
        for done in [pool.submit(run, number) for number in range(clients)]:
            done.result()


def test_pushes_pulls_and_deletions(daemon: Daemon, repo: Repository) -> None:
    repo.image("latest")
    kept: list[Pushed] = []

    def work(mine: Repository, number: int) -> None:
        for turn in range(ROUNDS):
            pushed = mine.image(f"own-{number}-{turn}")
            mine.put("latest", pushed.content, OCI_MANIFEST).is_(201)
            shared = mine.get("latest")
            assert shared.status in (200, 404), shared
            if shared.status == 200:
                assert digest_of(shared.body) == shared.header("Docker-Content-Digest")
            assert f"own-{number}-{turn}" in mine.tags()
            assert mine.get(f"own-{number}-{turn}").is_(200).body == pushed.content
            if turn % 2:
                mine.client.delete(mine.path(f"manifests/{pushed.digest}")).is_(202)
                assert f"own-{number}-{turn}" not in mine.tags()
                mine.get(f"own-{number}-{turn}").is_(404)
            else:
                kept.append(pushed)
            mine.client.get("/v2/_catalog?n=100").is_(200)

    at_once(daemon, repo.name, work)
    for pushed in kept:
        assert repo.get(pushed.digest).is_(200).body == pushed.content
    assert {tag for tag in repo.tags() if tag != "latest"} == {
        f"own-{number}-{turn}" for number in range(CLIENTS) for turn in range(0, ROUNDS, 2)
    }


def test_the_same_blob_and_manifest(daemon: Daemon, repo: Repository) -> None:
    """Whoever is told that a push is done finds it, though others push the same at the same moment."""
    content = random_bytes(300_000)
    manifest = encode(image(descriptor(content, OCI_EMPTY)))

    def work(mine: Repository, number: int) -> None:
        digest = mine.blob(content)
        assert mine.client.get(mine.path(f"blobs/{digest}")).is_(200).body == content
        mine.put("latest", manifest, OCI_MANIFEST).is_(201)
        assert mine.get("latest").is_(200).body == manifest

    at_once(daemon, repo.name, work)


def test_a_blob_that_is_pushed_and_deleted(daemon: Daemon, repo: Repository) -> None:
    """A deletion races with pushes of the same blob; nobody sees half of it."""
    content = random_bytes(50_000)
    path = repo.path(f"blobs/{digest_of(content)}")

    def work(mine: Repository, number: int) -> None:
        for _ in range(ROUNDS):
            mine.blob(content)
            pulled = mine.client.get(path)
            assert pulled.status == 404 or pulled.is_(200).body == content
            assert mine.client.delete(path).status in (202, 404)

    at_once(daemon, repo.name, work)
    repo.blob(content)
    assert repo.client.get(path).is_(200).body == content


def test_referrers_of_one_subject(daemon: Daemon, repo: Repository) -> None:
    subject = repo.image("subject")
    repo.blob(b"{}")

    def work(mine: Repository, number: int) -> None:
        for turn in range(ROUNDS):
            mine.push(
                image(
                    descriptor(b"{}", OCI_EMPTY),
                    subject=subject.descriptor(),
                    annotations={"number": str(number), "turn": str(turn)},
                )
            )

    at_once(daemon, repo.name, work)
    found = repo.client.get(repo.path(f"referrers/{subject.digest}")).is_(200).json()["manifests"]
    assert len({each["digest"] for each in found}) == len(found) == CLIENTS * ROUNDS


def test_many_connections(daemon: Daemon, repo: Repository) -> None:
    pushed = repo.image("latest")

    def work(mine: Repository, number: int) -> None:
        for _ in range(5):
            assert mine.get("latest").is_(200).body == pushed.content

    at_once(daemon, repo.name, work, clients=60)
