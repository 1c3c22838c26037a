"""Small blobs: only what is at hand is read on the reactor's thread."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred, maybeDeferred

from registryd.storage.filesystem import FilesystemDriver
from registryd.storage.memory import MemoryDriver
from tests.values import NAME, local_registry, put_blob

from .content import digest_of
from .in_process import InProcess

CONTENT = bytes(range(256))
RANGED = {"Range": "bytes=10-19"}


class LateThread:
    """A thread that does what it is asked to at once, until it is told to hold back."""

    def __init__(self) -> None:
        self.held: list[Callable[[], object]] = []
        self.holds = False

    def __call__(self, call: Callable[..., Any], /, *arguments: Any) -> Deferred[Any]:
        if not self.holds:
            return maybeDeferred(call, *arguments)
        done: Deferred[Any] = Deferred()
        self.held.append(lambda: done.callback(call(*arguments)))
        return done


@pytest.fixture
def thread() -> LateThread:
    return LateThread()


@pytest.fixture
def folder() -> Iterator[str]:
    path = tempfile.mkdtemp()
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize(("headers", "part"), [({}, CONTENT), (RANGED, CONTENT[10:20])])
def test_what_is_not_at_hand_is_read_in_a_thread(thread: LateThread, headers: dict[str, str], part: bytes) -> None:
    registry = local_registry(MemoryDriver(), thread)
    put_blob(registry, CONTENT)
    front = InProcess(registry, None)
    thread.holds = True
    front.ask("GET", f"/v2/{NAME}/blobs/{digest_of(CONTENT)}", headers)
    (read,) = thread.held
    assert part not in front.transport.value()
    read()
    assert front.receive().body == part


@pytest.mark.parametrize(("headers", "part"), [({}, CONTENT), (RANGED, CONTENT[10:20])])
def test_what_is_at_hand_is_read_at_once(thread: LateThread, folder: str, headers: dict[str, str], part: bytes) -> None:
    registry = local_registry(FilesystemDriver(folder), thread)
    put_blob(registry, CONTENT)
    thread.holds = True
    assert InProcess(registry, None).get(f"/v2/{NAME}/blobs/{digest_of(CONTENT)}", headers).body == part
    assert not thread.held
