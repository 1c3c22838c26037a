"""The protocol beside writers, what a killed run leaves, and what can be had back."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from registryd.reference import Digest, RepositoryName, Tag
from registryd.storage import layout
from registryd.storage.filesystem import FilesystemDriver
from registryd.storage.interfaces import IContentWriter
from registryd.storage.memory import MemoryDriver
from registryd_gc.collect import CollectError, held
from registryd_gc.trash import LOCK, original, put_back, runs, set_aside_by

from .trees import APP, DAY, HUB, NEW, OLD, Heard, Store, image


class Killed(BaseException):
    """What a kill is to the code that it strikes."""


class WatchedDriver(MemoryDriver):
    """A memory driver that does something before its nth step that changes the tree, or after each set aside."""

    before: dict[int, Callable[[], object]]
    aside: Callable[[str], object]

    def __init__(self) -> None:
        super().__init__()
        self.before = {}
        self.steps = 0
        self.aside = lambda path: None

    def _step(self) -> None:
        self.steps += 1
        act = self.before.pop(self.steps, None)
        if act is not None:
            act()

    def set_aside(self, path: str, aside: str) -> None:
        self._step()
        super().set_aside(path, aside)
        self.aside(path)

    def put_back(self, aside: str, path: str) -> bool:
        self._step()
        return super().put_back(aside, path)

    def discard(self, path: str) -> None:
        self._step()
        super().discard(path)


def watched() -> tuple[WatchedDriver, Store]:
    driver = WatchedDriver()
    store = Store(driver)
    store.image("kept", tags=["kept"])
    return driver, store


def trash(store: Store) -> list[str]:
    return [path for path in store.files() if path.startswith(layout.TRASH) and path != LOCK]


def renew(store: Store, *paths: str) -> Callable[[str], None]:
    """Touches content, wherever it is just then, when the first of it is set aside."""

    def touch(path: str) -> None:
        if path == paths[0]:
            for one in paths:
                for place in [one, *(aside for aside in trash(store) if original(run_of(aside), aside) == one)]:
                    if store.has(place):
                        store.age(place, NEW)

    return touch


def run_of(aside: str) -> str:
    return aside[len(layout.TRASH) + 1 :].partition("/")[0]


def test_a_blob_that_is_renewed_on_the_way_is_put_back() -> None:
    driver, store = watched()
    loose = store.blob(b"loose")
    driver.aside = renew(store, layout.blob_data(loose))
    report = store.collect()
    assert store.has_blob(b"loose") and trash(store) == []
    assert (report.blobs.removed, report.blobs.young, report.blobs.kept) == (0, 1, 4)


def test_what_was_put_in_its_place_stays() -> None:
    driver, store = watched()
    path = layout.blob_data(store.blob(b"loose"))
    driver.aside = lambda aside: (renew(store, path)(aside), aside == path and store.put(path, b"new", NEW))
    store.collect()
    assert store.driver.get_content(path) == b"new" and trash(store) == []


def test_a_manifest_that_is_renewed_keeps_all_that_it_needs() -> None:
    driver, store = watched()
    child = store.image("child")
    index = store.index(child)
    signature = store.signature(index)
    driver.aside = renew(store, layout.revision_link(APP, index.digest))
    report = store.collect(untagged_go=True)
    assert store.has_manifest(index) and store.is_whole("child", child) and store.is_whole("signature", signature)
    assert (report.manifests.removed, report.blobs.removed, report.links.removed) == (0, 0, 0)


def test_a_tag_that_is_renewed_keeps_its_image() -> None:
    driver, store = watched()
    gone = store.image("gone", tags=["gone"])
    store.retain(keep_newest=0, keep_tags=("kept",))
    driver.aside = renew(store, layout.tag_link(APP, Tag("gone")))
    report = store.collect()
    assert store.has_tag("gone") and store.is_whole("gone", gone) and report.tags.removed == 0


def test_a_type_that_is_written_again_stays() -> None:
    driver, store = watched()
    gone = store.image("gone")
    link, kind = layout.revision_link(APP, gone.digest), layout.revision_media_type(APP, gone.digest)
    store.put(kind, b"application/vnd.example+json")
    driver.aside = lambda path: path == link and store.put(kind, b"application/vnd.example+json", NEW)
    store.collect(untagged_go=True)
    assert store.has(kind) and not store.has(link)


def test_what_is_gone_already_is_not_counted() -> None:
    driver, store = watched()
    loose = store.blob(b"loose")
    driver.before[1] = lambda: driver.delete(layout.blob_data(loose))
    assert store.collect().blobs.removed == 0


def killed_at(step: int, trash_age: float | None) -> tuple[bool, Store]:
    """Kill a run before one of its steps; whether there was such a step."""
    driver, store = watched()
    store.configure(trash=trash_age)
    gone = store.image("gone")
    store.tag("kept", gone)
    store.tag("kept", image(b"config of kept", b"layer of kept"))
    store.blob(b"loose")

    def kill() -> None:
        raise Killed

    driver.before[step] = kill
    try:
        store.collect(untagged_go=True)
    except Killed:
        return True, store
    return False, store


@pytest.mark.parametrize("trash_age", [None, DAY], ids=["no-trash", "trash"])
def test_a_run_after_one_that_was_killed_ends_its_work(trash_age: float | None) -> None:
    for step in range(1, 100):
        killed, store = killed_at(step, trash_age)
        kept = image(b"config of kept", b"layer of kept")
        assert store.is_whole("kept", kept) and store.has_tag("kept")
        store.collect(untagged_go=True)
        gone = image(b"config of gone", b"layer of gone")
        assert not store.has_manifest(gone) and not store.has_blob(b"loose") and not store.has_blob(gone.content)
        assert store.is_whole("kept", kept) and store.has_tag("kept")
        assert not trash(store) or trash_age
        if not killed:
            break
    assert step > 5


def test_what_a_killed_run_set_aside_is_judged_anew() -> None:
    _, store = watched()
    needed = image(b"config of kept", b"layer of kept")
    for path in (layout.blob_data(needed.digest), layout.tag_link(APP, Tag("kept"))):
        folder, _, name = path[len(layout.ROOT) :].rpartition("/")
        store.driver.set_aside(path, f"{layout.TRASH}/20200101T000000Z-0/{folder[1:]},{name}")
    before = trash(store)
    assert len(before) == 2
    assert store.collect(dry_run=True, untagged_go=True).trash.restored == 0
    assert trash(store) == before
    assert store.collect(untagged_go=True).trash.restored == 2
    assert store.is_whole("kept", needed) and store.has_tag("kept") and trash(store) == []


def test_an_old_link_does_not_undo_a_new_one() -> None:
    _, store = watched()
    path = layout.tag_link(APP, Tag("kept"))
    aside = f"{layout.TRASH}/20200101T000000Z-0/repositories/{APP}/_manifests/tags/kept/current,link"
    store.put(aside, b"sha256:" + b"0" * 64)
    new = store.driver.get_content(path)
    assert store.collect().trash.restored == 0
    assert store.driver.get_content(path) == new and trash(store) == []


def test_trash_is_kept_and_can_be_had_back(store: Store) -> None:
    gone = store.image("gone", tags=["1"])
    store.signature(gone)
    before = store.files()
    store.retain(keep_newest=0)
    retention = store.config.collection.retention
    store.configure(trash=3 * DAY, retention=retention)
    run = store.collect(untagged_go=True).run
    assert not store.has(layout.repository(APP)) and not store.has_blob(gone.content)
    assert [name for name, _ in runs(store.driver)] == [run]
    store.collect(untagged_go=True)
    assert put_back(store.driver, run, renew=True) > 8
    after = store.files()
    assert {path: file[0] for path, file in after.items() if path != LOCK} == {
        path: file[0] for path, file in before.items()
    }
    assert {after[path][1] == before[path][1] for path in before if "/index/" in path} == {True}
    store.configure()
    assert store.collect(untagged_go=True).manifests.removed == 0
    assert store.has(layout.layers(APP)) and list(runs(store.driver)) == []


def test_what_is_had_back_stays_whatever_its_repository_is_called(store: Store) -> None:
    name = RepositoryName("team/index/app")
    gone = store.image("gone", name)
    store.configure(trash=3 * DAY)
    put_back(store.driver, store.collect(untagged_go=True).run, renew=True)
    store.collect(untagged_go=True)
    assert store.is_whole("gone", gone, name)


def test_a_repository_that_is_had_back_has_a_folder_of_layers(store: Store) -> None:
    empty = store.index()
    store.configure(trash=3 * DAY)
    run = store.collect(untagged_go=True).run
    assert not store.has(layout.repository(APP))
    put_back(store.driver, run)
    assert store.has_manifest(empty) and store.has(layout.layers(APP))


def test_trash_is_removed_after_its_time(store: Store) -> None:
    store.driver.make_folder(layout.REPOSITORIES)
    store.blob(b"loose")
    store.configure(trash=3 * DAY)
    run = store.collect().run
    ended = f"{layout.TRASH}/{run}/ended"
    store.age(ended, 2 * DAY)
    assert store.collect().trash.removed == 0
    store.age(ended, 4 * DAY)
    assert store.collect().trash.removed == 1
    assert trash(store) == []


def test_a_run_that_removed_nothing_leaves_nothing(store: Store) -> None:
    store.image("app", tags=["1"])
    store.configure(trash=3 * DAY)
    store.collect()
    assert trash(store) == [] and list(runs(store.driver)) == []


def test_paths_come_back(store: Store) -> None:
    paths = [
        layout.blob_data(Digest.of(b"1")),
        layout.tag_link(APP, Tag("v1.0.link")),
        layout.tag_checked(APP, Tag("v1.0")),
        layout.tag_checked(APP, Tag("v1.0.checked")),
        layout.mirror(APP),
        layout.revision_media_type(APP, Digest.of(b"1")),
    ]
    for path in paths:
        store.put(path, b"1")
        folder, _, name = path[len(layout.ROOT) :].rpartition("/")
        store.driver.set_aside(path, f"{layout.TRASH}/run{folder},{name}")
    asides = set_aside_by(store.driver, "run")
    assert sorted(original("run", aside) for aside in asides) == sorted(paths)


def test_one_collector_at_a_time(store: Store) -> None:
    store.image("app", tags=["1"])
    with held(store.driver, False, False, Heard()), pytest.raises(CollectError, match="another collector"):
        store.collect()
    store.collect()


def test_a_full_disk_can_be_emptied() -> None:
    """Not even a folder of the trash can be made; what is needed is put back all the same."""

    class FullDriver(WatchedDriver):
        def set_aside(self, path: str, aside: str) -> None:
            if aside.startswith(layout.TRASH):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), aside)
            super().set_aside(path, aside)
            if path == renewed:
                store.age(aside, NEW)

    driver = FullDriver()
    store = Store(driver)
    store.blob(b"loose")
    renewed = layout.blob_data(store.blob(b"renewed"))
    store.configure(trash=DAY)
    assert store.collect().blobs.removed == 1
    assert not store.has_blob(b"loose") and store.has_blob(b"renewed")
    assert [path for path in store.files() if path.endswith(".tmp")] == []


def test_a_disk_without_room_for_a_folder_can_be_emptied() -> None:
    """The first run on it has none to work in."""

    class FullDriver(MemoryDriver):
        full = False

        def _needs_room(self, path: str) -> None:
            try:
                self.stat(path.rpartition("/")[0])
            except FileNotFoundError:
                if self.full:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path) from None

        def put_content(self, path: str, content: bytes, above: bool = False) -> None:
            self._needs_room(path)
            super().put_content(path, content, above)

        def writer(self, path: str, create: bool) -> IContentWriter:
            self._needs_room(path)
            return super().writer(path, create)

        def set_aside(self, path: str, aside: str) -> None:
            self._needs_room(aside)
            super().set_aside(path, aside)

    driver = FullDriver()
    store = Store(driver)
    kept = store.image("kept", tags=["1"])
    store.blob(b"loose")
    driver.full = True
    assert store.collect().blobs.removed == 1
    assert store.is_whole("kept", kept) and not store.has_blob(b"loose") and not store.has(layout.TRASH)


def test_who_is_alone_sets_nothing_aside() -> None:
    """Nobody could need it meanwhile; what is to be kept in the trash goes there all the same."""

    class WatchingDriver(MemoryDriver):
        asides = 0

        def set_aside(self, path: str, aside: str) -> None:
            self.asides += 1
            super().set_aside(path, aside)

    driver = WatchingDriver()
    store = Store(driver)
    kept = store.image("kept", tags=["1"])
    untagged = store.image("untagged")
    loose = store.layer(b"loose")
    report = store.collect(0.0, offline=True, untagged_go=True)
    assert (driver.asides, report.blobs.removed, report.manifests.removed, report.links.removed) == (0, 4, 1, 3)
    assert store.is_whole("kept", kept) and not store.has_manifest(untagged) and not store.has(layout.blob_data(loose))
    store.configure(trash=DAY)
    store.blob(b"another")
    assert store.collect(0.0, offline=True).blobs.removed == 1 and driver.asides == 1
    put_back(driver, next(runs(driver))[0])
    assert store.has_blob(b"another")


class FailingDriver(FilesystemDriver):
    """What is set aside is needed again, and cannot be put back at the first try; if ``split``, there is no trash."""

    def __init__(self, root: str, fault: BaseException, split: bool) -> None:
        super().__init__(root)
        self.fault: BaseException | None = fault
        self.split = split

    def set_aside(self, path: str, aside: str) -> None:
        if self.split and aside.startswith(layout.TRASH):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
        self.touch(path)
        super().set_aside(path, aside)

    def put_back(self, aside: str, path: str) -> bool:
        fault, self.fault = self.fault, None
        if fault is not None:
            raise fault
        return super().put_back(aside, path)


@pytest.mark.parametrize("fault", [OSError(errno.EIO, "no"), KeyboardInterrupt()], ids=["EIO", "Ctrl-C"])
@pytest.mark.parametrize("place", ["trash", "beside", "symbolic link"])
def test_what_cannot_be_put_back_ends_the_run_and_is_not_lost(tmp_path: Path, place: str, fault: BaseException) -> None:
    root = str(tmp_path / "store")
    store = Store(FailingDriver(root, fault, place == "beside"), now=tmp_path.stat().st_mtime)
    store.driver.make_folder(layout.REPOSITORIES)
    path = layout.blob_data(store.blob(b"loose"))
    if place == "symbolic link":
        os.rename(root + path, f"{root}{path}.real")
        os.symlink("data.real", root + path)
    with pytest.raises(type(fault)):
        store.collect()
    store.collect()
    assert store.driver.get_content(path) == b"loose"


def test_what_lies_on_another_file_system_than_the_trash_is_set_aside_where_it_is() -> None:
    class SplitDriver(WatchedDriver):
        def set_aside(self, path: str, aside: str) -> None:
            if aside.startswith(layout.TRASH):
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
            super().set_aside(path, aside)

    store = Store(SplitDriver())
    store.blob(b"loose")
    assert store.collect().blobs.removed == 1
    assert not store.has_blob(b"loose")


def test_a_tag_that_spells_a_file_of_another(store: Store) -> None:
    """An upstream chooses its tags."""
    store.mirror()
    gone = store.image("app", HUB, tags=["latest", "latest.checked"])
    for tag in ("latest", "latest.checked"):
        store.put(layout.tag_checked(HUB, Tag(tag)), b"{}")
    before = {path: content for path, (content, _) in store.files().items()}
    store.proxy()
    store.configure(trash=3 * DAY)
    run = store.collect().run
    assert not store.has_manifest(gone, HUB) and not store.has(layout.repository(HUB))
    put_back(store.driver, run, renew=True)
    assert {path: content for path, (content, _) in store.files().items() if path != LOCK} == before


def mirrored_in_the_trash() -> tuple[WatchedDriver, Store, str]:
    driver, store = watched()
    store.mirror()
    store.image("app", HUB, tags=["1"])
    store.proxy()
    store.configure(trash=3 * DAY)
    run = store.collect().run
    assert not store.has(layout.repository(HUB))
    return driver, store, run


def test_what_is_had_back_of_a_mirror_never_looks_private() -> None:
    driver, store, run = mirrored_in_the_trash()
    seen: list[bool] = []
    put = driver.put_back

    def put_back_one(aside: str, path: str) -> bool:
        done = put(aside, path)
        if path.startswith(layout.repository(HUB)):
            seen.append(store.has(layout.mirror(HUB)))
        return done

    driver.put_back = put_back_one  # type: ignore[method-assign]
    put_back(driver, run)
    assert len(seen) > 3 and all(seen)


def test_what_was_pushed_since_stays_private() -> None:
    driver, store, run = mirrored_in_the_trash()
    store.image("private", HUB, tags=["2"])
    put_back(driver, run)
    assert not store.has(layout.mirror(HUB)) and store.has_tag("1", HUB) and store.has_tag("2", HUB)


def on_disk(tmp_path: Path) -> tuple[str, Store]:
    root = str(tmp_path / "store")
    return root, Store(FilesystemDriver(root), now=tmp_path.stat().st_mtime)


@pytest.mark.parametrize("age", [OLD, NEW])
def test_a_relative_symbolic_link_to_content(tmp_path: Path, age: float) -> None:
    root, store = on_disk(tmp_path)
    path = layout.blob_data(store.blob(b"loose"))
    store.driver.make_folder(layout.REPOSITORIES)
    os.rename(root + path, f"{root}{path}.real")
    os.symlink("data.real", root + path)
    report = store.collect()
    assert (report.blobs.removed, store.has(path), store.has(f"{path}.real")) == (1, False, True)


def test_a_symbolic_link_that_leads_nowhere_comes_back(tmp_path: Path) -> None:
    """What a run that was killed has set aside."""
    root, store = on_disk(tmp_path)
    store.driver.make_folder(layout.REPOSITORIES)
    path = layout.blob_data(Digest.of(b"linked"))
    aside = f"{root}{layout.TRASH}/old{path[len(layout.ROOT) :].removesuffix('/data')},data"
    os.makedirs(os.path.dirname(aside))
    os.symlink("data.real", aside)
    assert store.collect().trash.restored == 1
    assert os.path.islink(root + path)


def test_symbolic_links_that_lead_to_themselves(tmp_path: Path) -> None:
    root, store = on_disk(tmp_path)
    kept = store.image("app", tags=["1"])
    store.layer(b"loose")
    for path in (layout.REPOSITORIES, layout.tags(APP), f"{layout.BLOBS}/sha256/00"):
        os.makedirs(root + path, exist_ok=True)
        os.symlink("itself", f"{root}{path}/itself")
    for name in ("up", "also"):
        os.symlink(".", f"{root}{layout.REPOSITORIES}/{name}")
    report = store.collect(untagged_go=True)
    assert (report.repositories.kept, report.blobs.removed) == (1, 1) and store.is_whole("app", kept)
