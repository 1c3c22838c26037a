"""A verification: what it reads, at what pace, beside whom, and how it goes on after an interruption."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner

from registryd.reference import Digest
from registryd.storage import layout
from registryd.storage.filesystem import FilesystemDriver
from registryd.storage.interfaces import IContentReader
from registryd.storage.memory import MemoryDriver
from registryd_gc.cli import commands
from registryd_gc.collect import CollectError
from registryd_gc.digests import data_path, raw
from registryd_gc.position import INTERVAL, PLACE
from registryd_gc.reading import Pace, Reading
from registryd_gc.repair import Repair
from registryd_gc.report import Damage, Verified
from registryd_gc.trash import LOCK, Trash
from registryd_gc.verify import LOCK as VERIFYING
from registryd_gc.verify import Verification

from .trees import APP, DAY, OTHER, Heard, Store


@attrs.define
class Clock:
    """A clock that only sleeping moves, and reading where it takes its time."""

    time: float = 0.0
    slept: list[float] = attrs.field(factory=list)
    woken: Callable[[], object] = lambda: None

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds
        self.woken()

    def pace(self, rate: int | None = None) -> Pace:
        return Pace(rate, self.now, self.sleep)


def verify(store: Store, pace: Pace | None = None, **options: bool) -> Verified:
    store.heard = Heard()
    return Verification(store.driver, store.config, store.heard, pace=pace or Clock().pace(), **options).run()


def found(verified: Verified) -> list[tuple[str, str]]:
    return [(damage.kind, damage.path) for damage in verified.damage]


class ReadDriver(MemoryDriver):
    """A memory driver that knows what was opened, and does something before the nth of it."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.before: dict[int, Callable[[], object]] = {}

    def reader(self, path: str) -> IContentReader:
        if path.startswith(layout.BLOBS):
            self.opened.append(path)
            self.before.pop(len(self.opened), lambda: None)()
        return super().reader(path)


def with_blobs(count: int = 10) -> tuple[ReadDriver, Store, Sequence[str]]:
    """A store of so many blobs, and their paths in the order in which they are read."""
    driver = ReadDriver()
    store = Store(driver)
    paths = sorted(data_path(raw(store.layer(b"blob %d" % number))) for number in range(count))
    return driver, store, paths


def interrupt() -> None:
    raise KeyboardInterrupt


def test_all_is_read_and_nothing_changes(store: Store) -> None:
    signed = store.image("app", tags=["1"])
    store.index(signed, tags=["2"])
    store.signature(signed)
    store.manifest(signed, OTHER)
    store.blob(b"of SHA-512", algorithm="sha512")
    before = store.files()
    verified = verify(store)
    blobs = [content for path, (content, _) in before.items() if path.startswith(layout.BLOBS)]
    assert (verified.blobs.read, verified.blobs.bytes) == (len(blobs), sum(map(len, blobs)))
    assert (verified.blobs.vanished, verified.repositories, verified.resumed) == (0, 2, False)
    assert store.heard.steps == store.heard.done == verified.blobs.bytes
    # What OTHER lacks is all that there is: it has no links of the image's blobs.
    assert found(verified) == [("parts", layout.revision_link(OTHER, signed.digest))]
    after = store.files()
    assert {path: after[path] for path in before} == before
    assert {path.rpartition("/")[0] for path in after.keys() - before.keys()} <= {layout.TRASH}


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize(("content", "kind"), [(b"", "empty"), (b"other", "digest"), (b"content and more", "digest")])
def test_other_bytes_than_the_digest_names(store: Store, algorithm: str, content: bytes, kind: str) -> None:
    store.blob(b"well")
    path = store.put(layout.blob_data(store.blob(b"content", algorithm=algorithm)), content)
    verified = verify(store)
    assert found(verified) == [(kind, path)] and not verified.damage[0].repaired
    assert store.heard.notes == [str(verified.damage[0])]
    assert store.driver.get_content(path) == content


def test_an_empty_blob_that_is_right(store: Store) -> None:
    store.blob(b"")
    assert verify(store).damage == []


def test_a_manifest_is_told_as_one(store: Store) -> None:
    manifest = store.image("app", tags=["1"])
    path = store.put(layout.blob_data(manifest.digest), b"{}")
    assert found(verify(store)) == [("manifest", path)]


def test_large_blobs_are_read_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is read is not left in the system's memory."""
    forgotten: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda descriptor, start, size, how: forgotten.append((start, size)))
    store = Store(FilesystemDriver(str(tmp_path / "store")))
    content = bytes(2_500_000)
    path = layout.blob_data(store.blob(content))
    assert verify(store).damage == []
    assert sum(size for _, size in forgotten) == len(content) and [start for start, _ in forgotten][:2] == [0, 1 << 20]
    store.put(path, content[:-1] + b"x")
    assert found(verify(store)) == [("digest", path)]


# Pace


@pytest.mark.parametrize("rate", [1000, 100_000, 10_000_000])
def test_a_rate_is_kept(store: Store, rate: int) -> None:
    for number in range(3):
        store.blob(bytes([number]) * 200_000)
    clock = Clock()
    verified = verify(store, clock.pace(rate))
    assert clock.time == pytest.approx(verified.blobs.bytes / rate)
    # Evenly, at no time more than a chunk ahead.
    assert max(clock.slept) <= max(0.25, 4096 / rate) * 1.01


def test_no_rate_is_no_wait(store: Store) -> None:
    store.blob(bytes(2_000_000))
    clock = Clock()
    verify(store, clock.pace())
    assert clock.slept == []


# Beside others


def test_what_vanishes_is_no_damage() -> None:
    driver, store, paths = with_blobs()
    links = [path for path in store.files() if "_layers" in path]

    def remove() -> None:
        for path in [paths[2], paths[7], *links]:
            driver.delete(path)

    driver.before[3] = remove
    verified = verify(store)
    assert verified.damage == [] and (verified.blobs.read, verified.blobs.vanished) == (8, 1)


class ReplacedDriver(ReadDriver):
    """A memory driver in which some content is replaced once it is open."""

    replaced: dict[str, bytes]

    def reader(self, path: str) -> IContentReader:
        content = super().reader(path)
        if path in self.replaced:
            self.put_content(path, self.replaced.pop(path))
        return content


def test_what_is_replaced_while_it_is_read_is_read_again() -> None:
    driver = ReplacedDriver()
    store = Store(driver)
    path = store.put(layout.blob_data(store.blob(b"good")), b"bad")
    driver.replaced = {path: b"good"}
    assert verify(store).damage == [] and driver.opened == [path, path]


def test_damage_that_was_collected_meanwhile_is_none() -> None:
    driver, store, paths = with_blobs()
    store.put(paths[0], b"bad")
    driver.before[10] = lambda: store.collect()
    verified = verify(store)
    assert verified.damage == [] and not store.has(paths[0])


def test_a_collection_may_run_while_blobs_are_read() -> None:
    driver, store, _ = with_blobs()
    removed: list[int] = []
    driver.before[1] = lambda: removed.append(store.collect().blobs.removed)
    driver.before[2] = lambda: removed.append(store.collect(grace=0.0, offline=True).blobs.removed)
    # Without the links that the first run removes, they would be damage.
    store.image("app", tags=["1"])
    assert verify(store).damage == [] and removed == [10, 0]


def test_one_collector_at_a_time_looks_at_links(store: Store) -> None:
    store.image("app", tags=["1"])
    path = store.put(layout.layer_link(APP, Digest.of(b"layer of app")), b"")
    collector = store.driver.writer(LOCK, True)
    clock = Clock()

    def woken() -> None:
        assert store.driver.get_content(path) == b""
        if len(clock.slept) == 3:
            collector.close()

    clock.woken = woken
    verified = verify(store, clock.pace(), repair=True)
    assert len(clock.slept) == 3 and [note for note in store.heard.notes if "another collector" in note][1:] == []
    assert verified.damage[0].repaired and store.driver.get_content(path) != b""


def test_two_verifications(store: Store) -> None:
    store.image("app")
    other = store.driver.writer(VERIFYING, True)
    with pytest.raises(CollectError, match="another verification"):
        verify(store)
    other.close()
    verify(store)


def test_what_an_interrupted_collection_set_aside_is_not_missing(store: Store) -> None:
    store.image("app", tags=["1"])
    layer = Digest.of(b"layer of app")
    aside = f"{layout.TRASH}/20200101T000000Z-0/blobs/sha256/{layer.hex[:2]}/{layer.hex},data"
    store.driver.set_aside(layout.blob_data(layer), aside)
    assert verify(store, repair=True).damage == []
    assert store.has_blob(b"layer of app") and store.has(layout.layer_link(APP, layer))


# Going on


def test_it_goes_on_where_it_was_interrupted() -> None:
    driver, store, paths = with_blobs()
    store.put(paths[1], b"bad")
    driver.before[5] = interrupt
    with pytest.raises(KeyboardInterrupt):
        verify(store)
    assert driver.opened == paths[:5]
    driver.opened.clear()
    verified = verify(store)
    assert driver.opened == paths[4:]
    assert verified.resumed and verified.blobs.read == 10 and found(verified) == [("digest", paths[1])]
    assert store.heard.done == store.heard.steps
    # One that has ended is no more to go on with.
    driver.opened.clear()
    assert not verify(store).resumed and driver.opened == paths


def test_it_begins_anew_where_that_is_asked_for() -> None:
    driver, store, paths = with_blobs()
    driver.before[5] = interrupt
    with pytest.raises(KeyboardInterrupt):
        verify(store)
    driver.opened.clear()
    assert not verify(store, restart=True).resumed and driver.opened == paths


def test_it_goes_on_while_it_waits_for_a_collector(store: Store) -> None:
    store.blob(b"blob")
    collector = store.driver.writer(LOCK, True)
    clock = Clock(woken=interrupt)
    with pytest.raises(KeyboardInterrupt):
        verify(store, clock.pace(), repair=True)
    collector.close()
    verified = verify(store)
    assert verified.resumed and verified.blobs.read == 1


def test_a_kill_costs_no_more_than_a_few_seconds() -> None:
    """The position is kept as often as that, and no more often."""
    driver, store, paths = with_blobs(40)
    clock = Clock()
    kept: list[tuple[float, str]] = []
    put = driver.put_content

    def keep(path: str, content: bytes) -> None:
        if path == PLACE:
            kept.append((clock.time, json.loads(content)["after"]))
        put(path, content)

    driver.put_content = keep  # type: ignore[method-assign]
    # Each blob takes a second: the pace sleeps as long.
    size = driver.stat(paths[0]).size
    for path in paths:
        driver.put_content(path, driver.get_content(path))
    verify(store, clock.pace(size))
    gaps = [after - before for (before, _), (after, _) in pairwise(kept)]
    # The last is kept when all is read.
    assert len(gaps) >= 5 and all(INTERVAL <= gap <= INTERVAL + 2 for gap in gaps[:-1])
    # A process that is killed leaves what was kept last.
    put(PLACE, json.dumps({"began": 1.0, "after": kept[2][1], "blobs": 15, "bytes": 90, "damage": []}).encode())
    driver.opened.clear()
    verified = verify(store)
    last = next(number for number, path in enumerate(paths) if kept[2][1].rpartition("/")[2] in path)
    assert driver.opened == paths[last + 1 :] and verified.began == 1.0


@pytest.mark.parametrize("content", [b"", b"{}", b"garbage", b"[]", b'{"began": "x", "after": 1}'])
def test_a_position_that_cannot_be_read_is_none(store: Store, content: bytes) -> None:
    store.blob(b"blob")
    store.put(PLACE, content)
    verified = verify(store)
    assert not verified.resumed and verified.blobs.read == 1 and not store.has(PLACE)


class FullDriver(ReadDriver):
    """A storage that has no room for anything."""

    def put_content(self, path: str, content: bytes, above: bool = False) -> None:
        if path == PLACE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        super().put_content(path, content, above)


def test_a_position_that_cannot_be_kept_is_told_once() -> None:
    driver = FullDriver()
    store = Store(driver)
    size = len(b"blob 0")
    for number in range(10):
        store.blob(b"blob %d" % number)
    verified = verify(store, Clock().pace(size))
    assert verified.blobs.read == 10
    assert [note for note in store.heard.notes if "position" in note][1:] == [] != store.heard.notes


# The disk


class FailingDriver(MemoryDriver):
    """A memory driver that cannot read some content."""

    failing = ""
    number = errno.EIO

    def reader(self, path: str) -> IContentReader:
        if path == self.failing:
            raise OSError(self.number, os.strerror(self.number), path)
        return super().reader(path)


def test_what_the_disk_does_not_give_is_damage_that_stays_where_it_is() -> None:
    driver = FailingDriver()
    store = Store(driver)
    store.image("app", tags=["1"])
    driver.failing = layout.blob_data(Digest.of(b"layer of app"))
    verified = verify(store, repair=True)
    (damage,) = verified.damage
    assert (damage.kind, damage.path, damage.repaired) == ("digest", driver.failing, False)
    assert "Input/output error" in damage.detail and store.has(driver.failing)


def test_what_may_not_be_read_is_a_failure() -> None:
    driver = FailingDriver()
    store = Store(driver)
    driver.failing, driver.number = layout.blob_data(store.blob(b"blob")), errno.EACCES
    with pytest.raises(PermissionError):
        verify(store)


# The command


@pytest.fixture
def configured(tmp_path: Path) -> tuple[Store, str]:
    """A store of files, and a configuration that names it."""
    root = tmp_path / "store"
    root.mkdir()
    config = tmp_path / "config.yml"
    config.write_text(f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {root}}}}}\n")
    return Store(FilesystemDriver(str(root)), now=root.stat().st_mtime), str(config)


def run(*arguments: str) -> Any:
    return CliRunner().invoke(commands, ["verify", *arguments])


def test_words_and_exit_codes(configured: tuple[Store, str]) -> None:
    store, config = configured
    store.image("app", tags=["1"])
    done = run(config)
    assert done.exit_code == 0 and "3 read (" in done.output and "damage        none" in done.output
    assert run("-q", config).output == ""
    path = store.put(layout.blob_data(store.layer(b"layer")), b"other")
    done = run("-q", config)
    assert (done.exit_code, done.stdout) == (3, "") and f"registryd-gc: digest: {path}: 5 bytes, whose" in done.stderr
    done = run("--repair", config)
    assert done.exit_code == 3 and "damage        2 found, 2 repaired" in done.output
    assert run("--repair", config).exit_code == 0


def test_one_json_document(configured: tuple[Store, str]) -> None:
    store, config = configured
    path = store.put(layout.blob_data(store.blob(b"layer")), b"other")
    store.blob(b"well")
    done = run("--json", "--rate", "50MB", config)
    document = json.loads(done.stdout)
    assert done.exit_code == 3 and document["seconds"] > 0 and document["began"] > store.now - DAY
    assert document["blobs"] == {"read": 2, "bytes": 9, "vanished": 0}
    (damage,) = document["damage"]
    assert (damage["kind"], damage["path"], damage["repaired"]) == ("digest", path, False)
    assert json.loads(run("--json", "--repair", config).stdout)["damage"] == [{**damage, "repaired": True}]


@pytest.mark.parametrize("rate", ["0", "fast", "-1"])
def test_a_rate_is_a_size(configured: tuple[Store, str], rate: str) -> None:
    assert "is not a size" in (told := run(f"--rate={rate}", configured[1]).output) or "out of range" in told


def test_no_store(tmp_path: Path) -> None:
    config = tmp_path / "config.yml"
    config.write_text(f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {tmp_path}/gone}}}}\n")
    assert isinstance(run(str(config)).exception, CollectError) and not (tmp_path / "gone").exists()


@pytest.mark.parametrize("repair", [False, True])
def test_a_young_link_without_a_blob_is_no_damage(store: Store, repair: bool) -> None:
    """An upload that ends just then writes the link first."""
    digest = Digest.of(b"on its way")
    path = store.link(layout.layer_link(APP, digest), digest, 60)
    assert verify(store, repair=repair).damage == [] and store.has(path)
    store.age(path, 2 * DAY)
    assert found(verify(store, repair=repair)) == [("dangling", path)] and store.has(path) is not repair


def test_a_link_that_becomes_young_is_not_removed(store: Store) -> None:
    digest = Digest.of(b"on its way")
    path = store.link(layout.layer_link(APP, digest), digest, 60)
    trash = Trash.begin(store.driver, DAY, False, False)
    repair = Repair(store.driver, trash, Reading(store.driver))
    assert not repair.mend(Damage("dangling", path, "its blob is missing")).repaired and store.has(path)


def test_one_that_has_ended_leaves_nothing(store: Store) -> None:
    store.image("app", tags=["1"])
    verify(store)
    assert not store.has(VERIFYING)
