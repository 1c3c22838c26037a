"""A storage without room: errors that say so, nothing half-written, uploads that go on when there is room."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.images import image, root_tar
from tests.clients.programs import program, run
from tests.clients.v2 import V2, Answer, digest_of, with_digest
from tests.daemon import Daemon

MIB = 1 << 20
CONTENT = os.urandom(6 * MIB)
DIGEST = digest_of(CONTENT)
OCTETS = {"Content-Type": "application/octet-stream"}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = run([program("mount"), "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], expect=None)
    if mounted.code != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    run([program("umount"), "--lazy", folder])


@pytest.fixture
def daemon(disk: Path) -> Iterator[Daemon]:
    with Daemon(root=disk / "store") as running:
        yield running
        assert "Traceback" not in running.stderr


@pytest.fixture
def session(daemon: Daemon) -> V2:
    return V2("127.0.0.1", daemon.port)


def fill(disk: Path, leave: int = 0) -> Path:
    """A file that takes all room but some bytes."""
    filler = disk / "filler"
    room = os.statvfs(disk)
    with filler.open("wb") as file:
        file.write(bytes(room.f_bavail * room.f_frsize - leave))
    return filler


def assert_says_so(answer: Answer) -> None:
    assert answer.expect(507).headers["Content-Type"].startswith("application/json")
    (error,) = answer.json["errors"]
    assert "space" in error["message"]


def test_patch_and_resume(disk: Path, session: V2) -> None:
    location = session.start_upload("some")
    location = session.ask("PATCH", location, CONTENT[:MIB], OCTETS).expect(202).location
    filler = fill(disk, leave=2 * MIB)
    assert_says_so(session.ask("PATCH", location, CONTENT[MIB:], OCTETS))
    session.blob("some", DIGEST).expect(404)

    last = int(session.get(location).expect(204).headers["Range"].partition("-")[2])
    assert MIB - 1 <= last < 3 * MIB
    filler.unlink()
    rest = {**OCTETS, "Content-Range": f"{last + 1}-{len(CONTENT) - 1}"}
    location = session.ask("PATCH", location, CONTENT[last + 1 :], rest).expect(202).location
    session.ask("PUT", with_digest(location, DIGEST), b"").expect(201)
    assert session.blob("some", DIGEST).expect(200).body == CONTENT


def test_closing_put_and_resume(disk: Path, session: V2) -> None:
    location = session.start_upload("some")
    filler = fill(disk, leave=MIB)
    assert_says_so(session.ask("PUT", with_digest(location, DIGEST), CONTENT, OCTETS))
    session.blob("some", DIGEST).expect(404)
    last = int(session.get(location).expect(204).headers["Range"].partition("-")[2])
    kept = last + 1 if last else 0
    filler.unlink()
    session.ask("PUT", with_digest(location, DIGEST), CONTENT[kept:], OCTETS).expect(201)
    assert session.blob("some", DIGEST).expect(200).body == CONTENT


def test_answer_reaches_a_client_that_still_sends(disk: Path, session: V2) -> None:
    """However the rest of the body and the answer to its first part cross each other."""
    fill(disk, leave=MIB)
    for _ in range(20):
        location = session.start_upload("some")
        assert_says_so(session.ask("PUT", with_digest(location, DIGEST), CONTENT, OCTETS))
        session.ask("DELETE", location).expect(204)


def test_single_post(disk: Path, session: V2) -> None:
    filler = fill(disk, leave=MIB)
    path = f"/v2/some/blobs/uploads/?digest={DIGEST}"
    assert_says_so(session.ask("POST", path, CONTENT, OCTETS))
    session.blob("some", DIGEST).expect(404)
    filler.unlink()
    session.ask("POST", path, CONTENT, OCTETS).expect(201)
    assert session.blob("some", DIGEST).expect(200).body == CONTENT


def test_manifest(disk: Path, session: V2) -> None:
    subject = image([root_tar("full", busybox=False)])
    for blob in subject.blobs():
        session.push_blob("some", blob.content)
    filler = fill(disk)
    path, kind = "/v2/some/manifests/1", {"Content-Type": subject.manifest.media_type}
    assert_says_so(session.ask("PUT", path, subject.manifest.content, kind))
    session.manifest("some", "1").expect(404)
    session.manifest("some", subject.digest).expect(404)
    assert session.get("/v2/some/tags/list").status == 404 or session.tags("some") == []
    filler.unlink()
    session.ask("PUT", path, subject.manifest.content, kind).expect(201)
    assert session.manifest("some", "1").expect(200).body == subject.manifest.content


def test_what_is_there_is_still_served(disk: Path, session: V2) -> None:
    session.push_blob("some", CONTENT)
    fill(disk)
    assert session.blob("some", DIGEST).expect(200).body == CONTENT
    session.ask("HEAD", f"/v2/some/blobs/{DIGEST}").expect(200)
    session.ask("POST", f"/v2/other/blobs/uploads/?mount={DIGEST}&from=some", b"").expect(201, 507)


def test_refused_single_post_takes_no_room(disk: Path, session: V2) -> None:
    """Its client knows of no session: nobody else would give the room free."""
    fill(disk, leave=4 * MIB)
    before = os.statvfs(disk)
    assert_says_so(session.ask("POST", f"/v2/some/blobs/uploads/?digest={DIGEST}", CONTENT, OCTETS))
    taken = (before.f_bavail - os.statvfs(disk).f_bavail) * before.f_frsize
    assert taken < MIB
