"""Who waits to hold a folder alone is not passed for ever by those who share it."""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from registryd.storage.filesystem import FilesystemDriver

FOLDER = "/repository"
LONG = 10.0
SHORT = 0.1


class Place:
    """A folder that threads get hold of: ``order`` is who did, one after the other."""

    def __init__(self, driver: FilesystemDriver) -> None:
        self.driver = driver
        self.order: list[str] = []
        self.asks = threading.Semaphore(0)
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []

    def hold(self, name: str, exclusive: bool, folder: str = FOLDER) -> Callable[[], None]:
        """Get hold of the folder in a thread; what lets it go again."""
        leave = threading.Event()

        def run() -> None:
            with self.driver.guard(folder, exclusive):
                with self._changed:
                    self.order.append(name)
                    self._changed.notify_all()
                leave.wait(LONG)

        self._threads.append(threading.Thread(target=run, daemon=True))
        self._threads[-1].start()
        return leave.set

    def join(self) -> None:
        for thread in self._threads:
            thread.join(LONG)
            assert not thread.is_alive()

    def await_order(self, *order: str) -> None:
        """Return once just these have got hold of the folder; ``asks`` then counts those to come."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.order == list(order), LONG), self.order
        while self.asks.acquire(blocking=False):
            pass

    def stays(self, *order: str) -> None:
        """Give those who wrongly can the time to get hold of the folder: nobody but these has."""
        with self._changed:
            assert not self._changed.wait_for(lambda: self.order != list(order), SHORT), self.order


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    place = Place(FilesystemDriver(str(tmp_path)))
    real = fcntl.flock

    def flock(descriptor: int, how: int) -> None:
        place.asks.release()
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    yield place
    place.join()


def test_later_ones_wait(place: Place) -> None:
    leave = place.hold("shared", False)
    place.await_order("shared")
    alone = place.hold("alone", True)
    assert place.asks.acquire(timeout=LONG)
    later = [place.hold("later", False) for _ in range(3)]
    place.stays("shared")
    leave()
    place.await_order("shared", "alone")
    place.stays("shared", "alone")
    alone()
    place.await_order("shared", "alone", "later", "later", "later")
    for let_go in later:
        let_go()


def test_other_folders_are_not_waited_for(place: Place) -> None:
    leave = place.hold("shared", False)
    place.await_order("shared")
    alone = place.hold("alone", True)
    assert place.asks.acquire(timeout=LONG)
    other = place.hold("other", False, "/other")
    place.await_order("shared", "other")
    for let_go in (other, leave, alone):
        let_go()


def test_one_that_fails_is_not_waited_for(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int, how: int) -> None:
        raise OSError("no locks left")

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", fail)
        with pytest.raises(OSError, match="no locks left"), place.driver.guard(FOLDER, True):
            pass
    leave = place.hold("shared", False)
    place.await_order("shared")
    leave()
