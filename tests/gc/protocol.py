"""The protocol between pushes and the collector as a model: one step is one call of the file system.

A store holds files with times, named ``data/<blob>``, and in a repository ``<repository>/link/<blob>``,
``<repository>/rev/<manifest>`` and ``<repository>/tag/<manifest>``. Programs are generators that touch the store once
between two ``yield``s; what they remember is in their local variables, where the exploration sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from types import FrameType, GeneratorType
from typing import Any, Final

import attrs

from .interleavings import Choice

GRACE: Final = 3
TICK: Final = 2
OLD: Final = -100
LATE: Final = 1000

PARTS: Final[dict[str, tuple[str, ...]]] = {
    "index": ("child",),
    "child": ("layer",),
    "image": ("layer",),
    "signature": ("payload",),
}
SUBJECTS: Final = {"signature": "child"}
BLOBS: Final = ("layer", "payload")

_VALUES: Final = (bool, int, str, list, tuple, set)

Program = Generator[None, None, Any]


@attrs.define
class Store:
    """Files and their times, the trash, the clock, and what pushers have been told."""

    times: dict[str, int]
    now: int = 0
    trash: dict[str, int] = attrs.field(factory=dict)
    pushing_since: dict[str, int] = attrs.field(factory=dict)
    acknowledged: set[str] = attrs.field(factory=set)
    promised: dict[str, int] = attrs.field(factory=dict)

    def names(self, folder: str) -> list[str]:
        return sorted(name for name in self.times if name.startswith(folder))

    def write(self, path: str) -> None:
        self.times[path] = self.now

    def touch(self, path: str) -> bool:
        if path not in self.times:
            return False
        self.times[path] = self.now
        return True

    def promise(self, path: str) -> None:
        """Let a pusher rely on a path for the time of the grace."""
        self.promised[path] = self.now + GRACE

    def state(self) -> Hashable:
        known = (self.times, self.trash, self.pushing_since, self.promised)
        return self.now, frozenset(self.acknowledged), *(frozenset(each.items()) for each in known)


@attrs.frozen
class Rules:
    """The protocol, of which a control leaves a part out."""

    to_any_depth: bool = True
    young_keeps_parts: bool = True
    second_look: bool = True
    look_at_subject: bool = True
    fixed_cutoff: bool = True
    upload_is_new: bool = True
    own_trash: bool = True
    put_back_first: bool = True


def closure(store: Store, repository: str, manifest: str) -> list[str]:
    """A manifest, its children to any depth, and what refers to any of them and is there."""
    found = [manifest]
    for each in found:
        parts = [part for part in PARTS[each] if part not in BLOBS]
        parts += [other for other, subject in SUBJECTS.items() if subject == each]
        found += [part for part in parts if part not in found and f"{repository}/rev/{part}" in store.times]
    return found


def blobs_of(manifests: Sequence[str]) -> list[str]:
    """All bytes that manifests need, their own too."""
    return sorted({*manifests, *(part for manifest in manifests for part in PARTS[manifest] if part in BLOBS)})


def collector(store: Store, rules: Rules, run: str = "run") -> Program:
    """One run with ``-m`` over all repositories."""
    if rules.put_back_first:
        left = sorted(store.trash)
        for aside in left:
            yield
            store.times.setdefault(aside.partition(":")[2], store.trash.pop(aside))
    yield
    cutoff = store.now - GRACE if rules.fixed_cutoff else None
    marked: set[str] = set()
    repositories = sorted({path.partition("/")[0] for path in store.times} - {"data"})
    for repository in repositories:
        kept = yield from _collect_repository(store, rules, run, cutoff, repository)
        marked |= set(blobs_of(sorted(kept)))
    yield
    paths = store.names("data/")
    for path in paths:
        if path.partition("/")[2] not in marked:
            yield from _remove(store, rules, run, cutoff, path)


def _collect_repository(
    store: Store, rules: Rules, run: str, cutoff: int | None, repository: str
) -> Generator[None, None, set[str]]:
    yield
    tags = [path.rpartition("/")[2] for path in store.names(f"{repository}/tag/")]
    kept = {part for tag in tags for part in closure(store, repository, tag)}
    yield
    revisions = store.names(f"{repository}/rev/")
    for path in revisions:
        manifest = path.rpartition("/")[2]
        subject = f"{repository}/rev/{SUBJECTS[manifest]}" if manifest in SUBJECTS else None
        if manifest not in kept and not (yield from _remove(store, rules, run, cutoff, path, subject)):
            kept |= set(closure(store, repository, manifest)) if rules.young_keeps_parts else set()
    needed = blobs_of(sorted(kept))
    yield
    links = store.names(f"{repository}/link/")
    for path in links:
        if path.rpartition("/")[2] not in needed:
            yield from _remove(store, rules, run, cutoff, path)
    return kept


def _remove(
    store: Store, rules: Rules, run: str, cutoff: int | None, path: str, subject: str | None = None
) -> Generator[None, None, bool]:
    """Take a path away for good, unless it is young, or its subject is, in the end; whether it is gone."""

    def young(time: int) -> bool:
        return time >= (store.now - GRACE if cutoff is None else cutoff)

    aside = f"{run if rules.own_trash else 'shared'}:{path}"
    yield
    if path not in store.times:
        return True
    if young(store.times[path]):
        return False
    yield
    if path not in store.times:
        return True
    store.trash[aside] = store.times.pop(path)
    if rules.second_look:
        yield
        if aside not in store.trash:
            return True
        back = young(store.trash[aside])
        if not back and subject is not None and rules.look_at_subject:
            yield
            back = subject in store.times and young(store.times[subject])
        if back:
            yield
            if aside in store.trash:
                store.times.setdefault(path, store.trash.pop(aside))
            store.trash.pop(aside, None)
            return False
    yield
    store.trash.pop(aside, None)
    return True


def put(store: Store, rules: Rules, repository: str, manifest: str, listed: bool = True) -> Generator[None, None, bool]:
    """The PUT of a manifest under a tag; whether it was acknowledged. No referrer is seen that is not ``listed``."""
    store.pushing_since[manifest] = store.now
    relied: set[str] = set()
    complete = yield from _renew_parts(store, rules, repository, manifest, relied, True, listed)
    if complete:
        for path in (f"data/{manifest}", f"{repository}/rev/{manifest}", f"{repository}/tag/{manifest}"):
            yield
            store.write(path)
        store.acknowledged |= {f"{repository}/tag/{manifest}", *relied, *_whole(repository, manifest)}
    del store.pushing_since[manifest]
    return complete


def _whole(repository: str, manifest: str) -> Iterator[str]:
    """The paths of a manifest and of all that it needs."""
    yield from (f"{repository}/rev/{manifest}", f"data/{manifest}")
    for part in PARTS[manifest]:
        if part in BLOBS:
            yield from (f"{repository}/link/{part}", f"data/{part}")
        else:
            yield from _whole(repository, part)


def _renew_parts(
    store: Store, rules: Rules, repository: str, manifest: str, relied: set[str], required: bool, listed: bool = True
) -> Generator[None, None, bool]:
    """Renew what a manifest needs, then what refers to it; whether all that it needs is there."""
    for part in PARTS[manifest]:
        holder = "link" if part in BLOBS else "rev"
        there = yield from _renew(store, relied, f"{repository}/{holder}/{part}", f"data/{part}")
        if there and part not in BLOBS and rules.to_any_depth:
            there = yield from _renew_parts(store, rules, repository, part, relied, required)
        if not there and required:
            return False
    referrers = [other for other, subject in SUBJECTS.items() if listed and subject == manifest]
    for referrer in referrers:
        seen: set[str] = set()
        if (yield from _renew(store, seen, f"{repository}/rev/{referrer}", f"data/{referrer}")):
            whole = yield from _renew_parts(store, rules, repository, referrer, seen, True)
            if whole:
                relied |= seen
    return True


def _renew(store: Store, relied: set[str], *paths: str) -> Generator[None, None, bool]:
    for path in paths:
        yield
        if not store.touch(path):
            return False
        store.promise(path)
        relied.add(path)
    return True


def upload(store: Store, rules: Rules, repository: str, blob: str) -> Program:
    """The push of a blob."""
    yield
    store.write(f"{repository}/link/{blob}")
    store.promise(f"{repository}/link/{blob}")
    yield
    if rules.upload_is_new or f"data/{blob}" not in store.times:
        store.write(f"data/{blob}")
    store.promise(f"data/{blob}")


def push_index(store: Store, rules: Rules) -> Program:
    """An index over an old child that no tag names."""
    yield from put(store, rules, "a", "index")


def push_again(store: Store, rules: Rules) -> Program:
    """An old layer pushed once more, and an image of it."""
    yield from upload(store, rules, "a", "layer")
    yield from put(store, rules, "a", "image")


def check_and_push(store: Store, rules: Rules) -> Program:
    """An image of an old layer that a HEAD has found, or that is pushed where none has."""
    relied: set[str] = set()
    there = yield from _renew(store, relied, "a/link/layer", "data/layer")
    if not there:
        yield from upload(store, rules, "a", "layer")
    yield from put(store, rules, "a", "image")


def tag_again(store: Store, rules: Rules) -> Program:
    """An old untagged image that gets a tag again."""
    yield from put(store, rules, "a", "child")


def tag_unlisted(store: Store, rules: Rules) -> Program:
    """As that, where nothing leads from the image to its signature; which has to stay where it is there then."""
    acknowledged = yield from put(store, rules, "a", "child", listed=False)
    if acknowledged and "a/rev/signature" in store.times:
        store.acknowledged |= set(_whole("a", "signature"))


def _mount(store: Store, rules: Rules, source: str, target: str) -> Program:
    yield
    if f"{source}/link/layer" not in store.times:
        return
    yield
    if not store.touch("data/layer"):
        return
    store.promise("data/layer")
    yield
    store.write(f"{target}/link/layer")
    store.promise(f"{target}/link/layer")
    yield from put(store, rules, target, "image")


def mount_forward(store: Store, rules: Rules) -> Program:
    """A mount into a repository that the collector comes to later, and an image there."""
    yield from _mount(store, rules, "a", "b")


def mount_backward(store: Store, rules: Rules) -> Program:
    """A mount into a repository where the collector has been, and an image there."""
    yield from _mount(store, rules, "b", "a")


def clock(store: Store, end: int) -> Program:
    """Time, of which less than the grace passes while a manifest is being pushed."""
    while store.now < end:
        yield
        if all(store.now + TICK - began < GRACE for began in store.pushing_since.values()):
            store.now += TICK


class Model:
    """A store and programs on it as a world; the first program can be killed where another is to follow it."""

    def __init__(
        self, store: Store, programs: Sequence[Program], follower: Callable[[], Program] | None = None
    ) -> None:
        self.store = store
        self._programs: list[Program | None] = list(programs)
        self._follower = follower
        for number in range(len(programs)):
            self.take(("step", number))

    def choices(self) -> Sequence[Choice]:
        steps = [("step", number) for number, program in enumerate(self._programs) if program is not None]
        return [*steps, ("kill", 0)] if self._follower is not None and self._programs[0] is not None else steps

    def take(self, choice: Choice) -> None:
        kind, number = choice
        if kind == "kill":
            assert self._follower is not None
            self._programs[number], self._follower = self._follower(), None
        program = self._programs[number]
        assert program is not None
        try:
            next(program)
        except StopIteration:
            self._programs[number] = None

    def state(self) -> Hashable:
        return self.store.state(), self._follower is None, tuple(map(_local_state, self._programs))

    def close(self) -> None:
        for program in self._programs:
            if program is not None:
                program.close()


def _local_state(program: Program | None) -> Hashable:
    return tuple((frame.f_lasti, _remembered(frame)) for frame in _frames(program))


def _frames(program: object) -> Iterator[FrameType]:
    while isinstance(program, GeneratorType) and program.gi_frame is not None:
        yield program.gi_frame
        program = program.gi_yieldfrom


def _remembered(frame: FrameType) -> str:
    """The local variables of a frame, as text that is the same for the same values."""
    known = [(name, value) for name, value in sorted(frame.f_locals.items()) if isinstance(value, _VALUES)]
    return repr([(name, sorted(value) if isinstance(value, set) else value) for name, value in known])
