"""What a registry tells once it has acknowledged a change, it tells though the power failed in the next instant."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from registryd.errors import RegistryError
from registryd.interfaces import IRegistry
from registryd.reference import Digest, RepositoryName, Tag
from registryd.storage.filesystem import FilesystemDriver
from tests.values import LATEST, NAME, OTHER, image, listed, local_registry

from .disks import Disk

CONFIG, LAYER = b"config", bytes(range(256)) * 1000
OLD = image(CONFIG)
NEW = image(CONFIG, annotations={"new": "yes"})
SIGNATURE = image(CONFIG, subject=listed(OLD))
THERE = image(CONFIG, annotations={"other": "yes"})
V1 = Tag("v1")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with Disk.mounted(tmp_path, 64 << 20) as disk:
        yield disk


async def prepare(registry: IRegistry) -> None:
    """The state before each change."""
    await push_blob(registry, CONFIG)
    await registry.put_manifest(NAME, THERE, [LATEST])
    await registry.put_manifest(NAME, OLD, [LATEST])


async def push_blob(
    registry: IRegistry, content: bytes, algorithm: str = "sha256", name: RepositoryName = NAME
) -> None:
    writer = await registry.start_upload(name, algorithm)
    writer.write(content)
    await writer.commit(Digest.of(content, algorithm))


async def push_blob_in_parts(registry: IRegistry) -> None:
    writer = await registry.start_upload(OTHER, "sha256")
    writer.write(LAYER[:1000])
    await writer.suspend()
    writer = await registry.resume_upload(OTHER, writer.id)
    writer.write(LAYER[1000:])
    await writer.commit(Digest.of(LAYER))


CHANGES: dict[str, Callable[[IRegistry], Awaitable[object]]] = {
    "push_blob": lambda registry: push_blob(registry, LAYER),
    "push_blob_by_sha512": lambda registry: push_blob(registry, LAYER, "sha512"),
    "push_blob_in_parts": push_blob_in_parts,
    "push_blob_that_is_there": lambda registry: push_blob(registry, CONFIG, name=OTHER),
    "mount_blob": lambda registry: registry.mount_blob(OTHER, Digest.of(CONFIG), NAME),
    "put_manifest": lambda registry: registry.put_manifest(NAME, NEW, []),
    "put_manifest_with_tags": lambda registry: registry.put_manifest(NAME, NEW, [LATEST, V1]),
    "put_manifest_that_is_there": lambda registry: registry.put_manifest(NAME, OLD, [V1]),
    "move_tag": lambda registry: registry.put_manifest(NAME, THERE, [LATEST]),
    "put_referrer": lambda registry: registry.put_manifest(NAME, SIGNATURE, []),
    "delete_tag": lambda registry: registry.delete_tag(NAME, LATEST),
    "delete_manifest": lambda registry: registry.delete_manifest(NAME, OLD.digest),
    "delete_blob": lambda registry: registry.delete_blob(NAME, Digest.of(CONFIG)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_acknowledged(disk: Disk, change: Callable[[IRegistry], Awaitable[object]]) -> None:
    store = str(disk.folder / "store")
    registry = local_registry(FilesystemDriver(store))
    done(prepare(registry))
    before = done(told(registry))
    disk.sync()
    done(change(registry))
    acknowledged = done(told(registry))
    assert acknowledged != before
    disk.cut_power()
    assert done(told(local_registry(FilesystemDriver(store)))) == acknowledged


STEPS: dict[str, Callable[[FilesystemDriver], object]] = {
    "put_content": lambda driver: driver.put_content("/new/folder/content", b"new"),
    "put_content in the place of another": lambda driver: driver.put_content("/old/content", b"new"),
    "move": lambda driver: driver.move("/old/content", "/old/moved"),
    "delete": lambda driver: driver.delete("/old/content"),
    "delete of a folder": lambda driver: driver.delete("/old"),
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_durable(disk: Disk, step: Callable[[FilesystemDriver], object]) -> None:
    driver = FilesystemDriver(str(disk.folder / "store"))
    driver.put_content("/old/content", b"old")
    before = files(disk.folder)
    disk.sync()
    step(driver)
    after = files(disk.folder)
    assert after != before
    disk.cut_power()
    assert files(disk.folder) == after


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (folder / "store").rglob("*") if path.is_file()}


async def told(registry: IRegistry) -> list[object]:
    """All that a registry tells of what may be in it."""
    answers: list[object] = [await registry.repositories(None, "")]
    for name in (NAME, OTHER):
        digests = [Digest.of(content, algorithm) for content in (CONFIG, LAYER) for algorithm in ("sha256", "sha512")]
        answers += [await _answer(registry.resolve_blob(name, digest)) for digest in digests]
        references = (OLD.digest, NEW.digest, SIGNATURE.digest, LATEST, V1)
        answers += [await _answer(registry.get_manifest(name, reference)) for reference in references]
        answers.append(await _answer(registry.tags(name, None, "")))
        answers.append(await _answer(registry.referrers(name, OLD.digest)))
    return answers


async def _answer(asked: Awaitable[object]) -> object:
    try:
        return await asked
    except RegistryError as error:
        return error.code


def done(work: Awaitable[Any]) -> Any:
    """What work that nothing holds up has come to."""
    results: list[Any] = []

    async def run() -> None:
        results.append(await work)

    failures: list[object] = []
    Deferred.fromCoroutine(run()).addErrback(failures.append)
    assert not failures, failures
    return results[0]
