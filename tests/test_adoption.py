"""Caches that another program has filled, or a mirror of another name, taken over."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from twisted.internet.defer import Deferred

from registryd.adoption import Adopted
from registryd.assemble import adoption
from registryd.cli import main
from registryd.config import load
from registryd.model import Manifest
from registryd.reference import Digest, RepositoryName, Tag
from registryd.storage import layout
from registryd.storage.filesystem import FilesystemDriver
from registryd.storage.tree import Tree
from tests.values import image, local_registry, put_blob

HUB = "docker.io"
LATEST = Tag("latest")


def config_file(folder: Path, proxy: str) -> str:
    path = folder / "config.yml"
    storage = f"{{filesystem: {{rootdirectory: {folder}/store}}}}"
    path.write_text(f"version: 0.1\nstorage: {storage}\nhttp: {{addr: 127.0.0.1:0}}\nproxy: {proxy}\n")
    return str(path)


MIRROR = "{remoteurl: 'https://registry-1.docker.io'}"
BESIDE = (
    "{upstreams: {docker.io: {remoteurl: 'https://registry-1.docker.io'}}, default: docker.io, private: ['team/**']}"
)


def push(driver: FilesystemDriver, name: str) -> Manifest:
    registry = local_registry(driver)
    config, layer = b"{}", name.encode()
    for content in (config, layer):
        put_blob(registry, content, RepositoryName(name))
    manifest = image(config, layer)
    done(registry.put_manifest(RepositoryName(name), manifest, [LATEST]))
    return manifest


def done(result: Deferred[object]) -> None:
    failures: list[object] = []
    result.addErrback(failures.append)
    assert not failures


def mirrors(driver: FilesystemDriver) -> Sequence[str]:
    tree = Tree(driver)
    return [name for name in tree.repositories() if tree.exists(layout.mirror(name))]


def names(driver: FilesystemDriver) -> Sequence[str]:
    return list(Tree(driver).repositories())


@pytest.fixture
def driver(tmp_path: Path) -> FilesystemDriver:
    return FilesystemDriver(f"{tmp_path}/store")


def test_a_whole_mirror_takes_all_that_is_there(tmp_path: Path, driver: FilesystemDriver) -> None:
    push(driver, "library/x")
    push(driver, "team/app")
    result = CliRunner().invoke(main, ["adopt-cache", config_file(tmp_path, MIRROR)])
    assert result.exit_code == 0, result.output
    assert result.output == "library/x: a mirror of docker.io\nteam/app: a mirror of docker.io\n"
    assert mirrors(driver) == ["library/x", "team/app"]
    assert driver.get_content(layout.mirror(RepositoryName("library/x"))) == HUB.encode()


def test_beside_private_repositories_the_default_upstreams_move_to_where_names_lead(
    tmp_path: Path, driver: FilesystemDriver
) -> None:
    manifest = push(driver, "library/x")
    push(driver, "team/app")
    result = CliRunner().invoke(main, ["adopt-cache", config_file(tmp_path, BESIDE)])
    assert result.exit_code == 0, result.output
    assert result.output == "library/x -> docker.io/library/x: a mirror of docker.io\n"
    assert names(driver) == ["docker.io/library/x", "team/app"]
    assert mirrors(driver) == ["docker.io/library/x"]
    registry = local_registry(driver)
    found: list[Manifest] = []
    done(registry.get_manifest(RepositoryName("docker.io/library/x"), LATEST).addCallback(found.append))
    assert found == [manifest]
    blobs: list[object] = []
    layer = Digest.of(b"library/x")
    done(registry.resolve_blob(RepositoryName("docker.io/library/x"), layer).addCallback(blobs.append))
    assert blobs


def test_a_dry_run_changes_nothing(tmp_path: Path, driver: FilesystemDriver) -> None:
    push(driver, "library/x")
    result = CliRunner().invoke(main, ["adopt-cache", "-d", config_file(tmp_path, BESIDE)])
    assert "library/x" in result.output
    assert names(driver) == ["library/x"] and mirrors(driver) == []


def test_what_is_adopted_is_as_if_used_just_now(tmp_path: Path, driver: FilesystemDriver) -> None:
    manifest = push(driver, "library/x")
    for folder, _, files in os.walk(f"{tmp_path}/store"):
        for file in files:
            os.utime(f"{folder}/{file}", (1, 1))
    CliRunner().invoke(main, ["adopt-cache", config_file(tmp_path, MIRROR)])
    name = RepositoryName("library/x")
    for path in (
        layout.revision_link(name, manifest.digest),
        layout.tag_link(name, LATEST),
        layout.layer_link(name, Digest.of(b"library/x")),
    ):
        assert driver.stat(path).modified > 1


def test_a_second_time_finishes_what_was_interrupted(tmp_path: Path, driver: FilesystemDriver) -> None:
    push(driver, "library/x")
    config = load(config_file(tmp_path, BESIDE), {})
    found = adoption(config, driver)
    assert found is not None
    (planned,) = found.planned()
    # Only the mark was written.
    driver.put_content(layout.mirror(planned.name), planned.upstream.encode())
    (again,) = found.planned()
    assert again == Adopted(RepositoryName("library/x"), RepositoryName("docker.io/library/x"), HUB)
    found.adopt(again)
    assert names(driver) == ["docker.io/library/x"]
    assert list(found.planned()) == []


def push_mirrored(driver: FilesystemDriver, name: str, mark: str) -> Manifest:
    """What a mirror has fetched, and was told."""
    manifest = push(driver, name)
    repository = RepositoryName(name)
    driver.put_content(layout.mirror(repository), mark.encode())
    driver.put_content(layout.upstream_tags(repository), b'["latest"]')
    driver.put_content(layout.tag_checked(repository, LATEST), b"{}")
    return manifest


def mark(driver: FilesystemDriver, name: str) -> str:
    return driver.get_content(layout.mirror(RepositoryName(name))).decode()


def adopt(folder: Path, proxy: str) -> str:
    result = CliRunner().invoke(main, ["adopt-cache", config_file(folder, proxy)])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_registry_that_is_called_otherwise_now(tmp_path: Path, driver: FilesystemDriver) -> None:
    manifest = push_mirrored(driver, "org/app", "old.example")
    proxy = "{remoteurl: 'https://new.example'}"
    assert adopt(tmp_path, proxy) == "org/app: a mirror of new.example, so far of old.example\n"
    assert mark(driver, "org/app") == "new.example"
    assert Tree(driver).tag(RepositoryName("org/app"), LATEST) == manifest.digest
    assert driver.get_content(layout.upstream_tags(RepositoryName("org/app")))
    assert adopt(tmp_path, proxy) == ""


@pytest.mark.parametrize(
    ("urls", "marked"),
    [
        (["https://a.example"], "a.example"),
        (["https://a.example"], "a.example_443"),
        (["https://a.example:443"], "a.example"),
        (["https://a.example:443"], "a.example_443"),
        (["http://a.example"], "a.example_80"),
        (["https://b.example", "https://a.example:5000"], "a.example_5000"),
        (["https://registry-1.docker.io:443"], HUB),
    ],
)
def test_the_same_registry_by_another_of_its_urls_stays(
    tmp_path: Path, driver: FilesystemDriver, urls: Sequence[str], marked: str
) -> None:
    push_mirrored(driver, "org/app", marked)
    assert adopt(tmp_path, f"{{remoteurl: {list(urls)}}}") == ""
    assert mark(driver, "org/app") == marked


@pytest.mark.parametrize("marked", ["a.example_80", "a.example_5000", "a.example.org"])
def test_another_port_is_another_registry(tmp_path: Path, driver: FilesystemDriver, marked: str) -> None:
    push_mirrored(driver, "org/app", marked)
    assert (
        adopt(tmp_path, "{remoteurl: 'https://a.example'}") == f"org/app: a mirror of a.example, so far of {marked}\n"
    )


def test_new_repositories_are_marked_without_the_default_port(tmp_path: Path, driver: FilesystemDriver) -> None:
    push(driver, "org/app")
    assert adopt(tmp_path, "{remoteurl: ['https://a.example:443', 'https://b.example']}")
    assert mark(driver, "org/app") == "a.example"


@pytest.mark.parametrize(("marked", "told"), [(HUB, ""), ("hub.example", ", so far of hub.example")])
def test_what_mirrored_the_whole_registry_moves_below_its_upstream(
    tmp_path: Path, driver: FilesystemDriver, marked: str, told: str
) -> None:
    before, after = RepositoryName("library/x"), RepositoryName("docker.io/library/x")
    manifest = push_mirrored(driver, before, marked)
    subject = Digest.of(b"subject")
    driver.put_content(layout.referrer_link(before, subject, manifest.digest), str(manifest.digest).encode())
    assert adopt(tmp_path, BESIDE) == f"library/x -> docker.io/library/x: a mirror of docker.io{told}\n"
    tree = Tree(driver)
    assert names(driver) == [after] and mark(driver, after) == HUB
    assert tree.tag(after, LATEST) == manifest.digest
    assert tree.layer(after, Digest.of(b"library/x")) is not None
    assert list(tree.referrers(after, subject)) == [manifest.digest]
    assert not tree.exists(layout.repository(before))
    # What the upstream told belongs to a time before: it is asked again.
    assert not tree.exists(layout.tag_checked(after, LATEST))
    assert adopt(tmp_path, BESIDE) == ""


@pytest.mark.parametrize("name", ["team/app", "quay.io/org/app"])
def test_what_is_private_or_below_another_upstream_stays(tmp_path: Path, driver: FilesystemDriver, name: str) -> None:
    push_mirrored(driver, name, "quay.io")
    assert adopt(tmp_path, BESIDE) == ""
    assert names(driver) == [name] and mark(driver, name) == "quay.io"


def test_below_the_upstream_a_mark_that_is_anothers_is_replaced(tmp_path: Path, driver: FilesystemDriver) -> None:
    push_mirrored(driver, "docker.io/org/app", "registry-1.docker.io_443")
    told = "docker.io/org/app: a mirror of docker.io, so far of registry-1.docker.io_443\n"
    assert adopt(tmp_path, BESIDE) == told
    assert mark(driver, "docker.io/org/app") == HUB


def test_a_tag_that_was_fetched_under_the_new_name_stays(tmp_path: Path, driver: FilesystemDriver) -> None:
    old = push_mirrored(driver, "org/app", HUB)
    new = image(b"{}", b"newer")
    name = RepositoryName("docker.io/org/app")
    registry = local_registry(driver)
    for content in (b"{}", b"newer"):
        put_blob(registry, content, name)
    done(registry.put_manifest(name, new, [LATEST]))
    driver.put_content(layout.mirror(name), HUB.encode())
    adopt(tmp_path, BESIDE)
    tree = Tree(driver)
    assert tree.tag(name, LATEST) == new.digest
    assert tree.revision(name, old.digest) is not None and names(driver) == [name]


def test_blobs_without_manifests_are_adopted_too(tmp_path: Path, driver: FilesystemDriver) -> None:
    name = RepositoryName("org/app")
    put_blob(local_registry(driver), b"layer", name)
    driver.put_content(layout.mirror(name), b"old.example")
    assert adopt(tmp_path, BESIDE)
    assert Tree(driver).layer(RepositoryName("docker.io/org/app"), Digest.of(b"layer")) is not None
    assert not Tree(driver).exists(layout.repository(name))


class FailingError(Exception):
    """The end of an adoption."""


@pytest.mark.parametrize("deletions", range(5))
def test_a_move_that_was_interrupted_is_finished(
    tmp_path: Path, driver: FilesystemDriver, deletions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_mirrored(driver, "org/app", HUB)
    config = load(config_file(tmp_path, BESIDE), {})
    found = adoption(config, driver)
    assert found is not None
    (planned,) = found.planned()
    left = [FailingError(), *[None] * deletions]
    delete = FilesystemDriver.delete

    def failing(self: FilesystemDriver, path: str) -> None:
        failure = left.pop()
        if failure is not None:
            raise failure
        delete(self, path)

    with monkeypatch.context() as patched:
        patched.setattr(FilesystemDriver, "delete", failing)
        with pytest.raises(FailingError):
            found.adopt(planned)
    # Whatever is left of the mirror is known for that.
    assert driver.stat(layout.mirror(planned.before))
    assert list(found.planned()) == [planned]
    found.adopt(planned)
    assert names(driver) == ["docker.io/org/app"] and list(found.planned()) == []
    with pytest.raises(FileNotFoundError):
        driver.stat("/docker/registry/v2/repositories/org")


def test_without_a_mirror_there_is_nothing_to_adopt(tmp_path: Path) -> None:
    path = config_file(tmp_path, "{}")
    result = CliRunner().invoke(main, ["adopt-cache", path])
    assert result.exit_code == 1
    assert "proxy: nothing is mirrored" in result.output
