"""The real code as actors: threads that stop before each call of the storage, which has a clock of its own."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeVar

import attrs

from registryd.storage import layout
from registryd.storage.interfaces import Entry, IContentReader, IContentWriter, Leaf, Stat
from registryd.storage.memory import MemoryDriver

from .interleavings import Choice

_T = TypeVar("_T")

_NAMED_BY_CHANCE: Final = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\d{8}T\d{6}Z-[0-9a-f]{8}"
)
_PATIENCE: Final = 20.0


class Killed(BaseException):
    """The end of an actor that is given up, or killed: nothing of it comes to the storage any more."""


class Actor(threading.Thread):
    """A call in a thread of its own, which runs only while it is let. ``seen`` stands for all that it was told."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self._may_go = threading.Semaphore(0)
        self._stopped = threading.Semaphore(0)
        self._given_up = False
        self.ended = False
        self.seen: Hashable = 0
        self.errors: list[BaseException] = []

    def run(self) -> None:
        try:
            self.pause()
            self._call()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 (a thread's failure is the test's)
            self.errors.append(error)
        self.ended = True
        self._stopped.release()

    def pause(self, stop: bool = True) -> None:
        """Wait until the next step, where the actor is to stop; called by the actor itself."""
        self.seen = hash((self.seen, "a step"))
        if stop and not self._given_up:
            self._stopped.release()
            self._may_go.acquire()
        if self._given_up:
            raise Killed

    def step(self) -> None:
        """Let the actor come to its next call of the storage, or to its end."""
        self._may_go.release()
        assert self._stopped.acquire(timeout=_PATIENCE), "an actor waits for another that does not run"

    def begin(self) -> None:
        self.start()
        assert self._stopped.acquire(timeout=_PATIENCE)

    def give_up(self) -> None:
        if not self.ended:
            self._given_up = True
            self.step()


def _actor() -> Actor | None:
    thread = threading.current_thread()
    return thread if isinstance(thread, Actor) else None


@attrs.define(eq=False)
class SteppedDriver(MemoryDriver):
    """A memory driver with a clock. Actors stop before each call that changes what others rely on, and before each
    listing and second look of a collector; to everybody else it answers at once.

    With ``renews`` false touches do nothing but look; without a ``second_look`` what is set aside looks old.
    """

    clock: float = 0.0
    renews: bool = True
    second_look: bool = True
    _opened: dict[str, float] = attrs.field(factory=dict, init=False)

    def now(self) -> float:
        """The time, as an actor sees it."""
        return self._told(self.clock)

    def get_content(self, path: str) -> bytes:
        return self._step(partial(super().get_content, path), stop=False)

    def put_content(self, path: str, content: bytes, above: bool = False) -> None:
        self._step(partial(super().put_content, path, content, above), stop=not path.startswith(layout.TRASH))
        self._entry(path).modified = self.clock

    def reader(self, path: str) -> IContentReader:
        return self._step(partial(super().reader, path), tell=False, stop=False)

    def writer(self, path: str, create: bool) -> IContentWriter:
        writer = self._step(partial(super().writer, path, create), tell=False, stop=False)
        self._opened[path] = self.clock
        return writer

    def stat(self, path: str) -> Stat:
        aside = path.startswith(f"{layout.TRASH}/")
        stat = self._step(partial(super().stat, path), stop=aside)
        return attrs.evolve(stat, modified=0.0) if aside and not self.second_look else stat

    def list(self, path: str) -> list[str]:
        return self._step(partial(super().list, path), stop=False)

    def entries(self, path: str) -> Iterator[Entry]:
        yield from self._step(lambda: list(super(SteppedDriver, self).entries(path)), stop=False)

    def leaves(self, path: str, leaf: str, others: bool) -> Iterator[Leaf]:
        # Hundreds of folders for blobs are not there; a state is told apart by those that are.
        if self.is_there(path):
            listed = partial(super().leaves, path, leaf, others)
            yield from self._step(lambda: list(listed()))

    def move(self, source: str, target: str) -> None:
        self._step(partial(super().move, source, target))
        if source in self._opened:
            self._entry(target).modified = self._opened.pop(source)

    def delete(self, path: str) -> None:
        self._step(partial(super().delete, path), stop=False)

    def set_aside(self, path: str, aside: str) -> None:
        self._step(lambda: MemoryDriver.move(self, path, aside))

    def put_back(self, aside: str, path: str) -> bool:
        return self._step(partial(self._put_back, aside, path))

    def _put_back(self, aside: str, path: str) -> bool:
        try:
            self._entry(path)
        except FileNotFoundError:
            MemoryDriver.move(self, aside, path)
            return True
        MemoryDriver.delete(self, aside)
        return False

    def discard(self, path: str) -> None:
        self._step(lambda: MemoryDriver.delete(self, path))

    def prune(self, path: str, stop: str) -> bool:
        given_up = _actor()
        return self._told((given_up is None or not given_up._given_up) and self._prune(path, stop))

    def _prune(self, path: str, stop: str) -> bool:
        first = path
        while path.startswith(stop + "/") and path != stop:
            try:
                folder = self._entry(path)
            except FileNotFoundError:
                folder = None
            if folder is not None:
                if MemoryDriver.list(self, path):
                    return path != first
                MemoryDriver.delete(self, path)
            path = path.rpartition("/")[0]
        return path != first

    def touch(self, path: str) -> None:
        entry = self._step(partial(self._entry, path), tell=False)
        if self.renews:
            entry.modified = self.clock

    @contextmanager
    def guard(self, path: str, exclusive: bool) -> Iterator[None]:
        # Pushes of manifests share it, and nothing here deletes beside them.
        yield

    def lock(self, exclusive: bool) -> None:
        pass

    def is_there(self, path: str) -> bool:
        """Whether anything is at a path; actors need not stop for it."""
        try:
            self._entry(path)
        except FileNotFoundError:
            return self._told(False)
        return self._told(True)

    def content(self) -> Hashable:
        """All that is stored, with its times; names that are made by chance are alike."""
        return frozenset(_flat("", self._root))

    def _step(self, call: Callable[[], _T], tell: bool = True, stop: bool = True) -> _T:
        actor = _actor()
        if actor is not None:
            actor.pause(stop)
        try:
            result = call()
        except OSError as error:
            self._told(type(error).__name__)
            raise
        self._told(result if tell else None)
        return result

    def _told(self, result: _T) -> _T:
        actor = _actor()
        if actor is not None:
            shown = (result.size, _clocked(result.modified)) if isinstance(result, Stat) else result
            actor.seen = hash((actor.seen, _NAMED_BY_CHANCE.sub("", repr(shown))))
        return result


def _clocked(time: float) -> float | None:
    """A time of the driver's clock; that of folders, and of uploads that are not done, is the machine's."""
    return time if time < 1e9 else None


def _flat(path: str, entry: Any) -> Iterator[Hashable]:
    below = getattr(entry, "entries", None)
    if below is None:
        yield path, bytes(entry.data), _clocked(entry.modified)
        return
    for name, child in below.items():
        yield from _flat(f"{path}/{_NAMED_BY_CHANCE.sub('', name)}", child)


class Steps:
    """Actors over a stepped driver as a world, and a clock that is one more; the first can be killed for a follower.

    ``may_pass`` tells whether time may pass now.
    """

    def __init__(
        self,
        driver: SteppedDriver,
        calls: Sequence[Callable[[], object]],
        ticks: Sequence[float],
        may_pass: Callable[[float], bool],
        follower: Callable[[], object] | None = None,
    ) -> None:
        self.driver = driver
        self.acknowledged: list[object] = []
        self.actors = [Actor(call) for call in calls]
        self._ticks = list(ticks)
        self._may_pass = may_pass
        self._follower = follower
        for actor in self.actors:
            actor.begin()

    def choices(self) -> Sequence[Choice]:
        steps = [("step", number) for number, actor in enumerate(self.actors) if not actor.ended]
        if not steps:
            return ()
        if self._ticks and self._may_pass(self._ticks[0]):
            steps.append(("tick", 0))
        if self._follower is not None and not self.actors[0].ended:
            steps.append(("kill", 0))
        return steps

    def take(self, choice: Choice) -> None:
        kind, number = choice
        if kind == "tick":
            self.driver.clock += self._ticks.pop(0)
        elif kind == "kill":
            assert self._follower is not None
            self.actors[0].give_up()
            self.actors[0], self._follower = Actor(self._follower), None
            self.actors[0].begin()
        else:
            self.actors[number].step()

    def state(self) -> Hashable:
        seen = tuple((actor.seen, actor.ended) for actor in self.actors)
        return self.driver.content(), seen, len(self._ticks), self._follower is None

    def close(self) -> None:
        for actor in self.actors:
            actor.give_up()
