"""A storage that stands still: what comes waits with its sender, and what needs no writing goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.v2 import V2
from tests.daemon import Daemon

from .disks import Disk
from .flight import Flight
from .memory import peak

MIB = 1 << 20
SENT = 128 * MIB
BUFFERED = 48 * MIB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with Disk.mounted(tmp_path, 400 * MIB) as disk:
        yield disk


@pytest.fixture
def daemon(disk: Disk) -> Iterator[Daemon]:
    with Daemon(root=disk.folder / "store") as running:
        yield running
        # A process that waits for a frozen file system cannot even be killed.
        disk.thaw(expect=None)


def stuck(flight: Flight) -> int:
    """How many bytes a request takes until none is taken for a second."""
    flight.patience(1)
    try:
        return flight.send_some(SENT)
    finally:
        flight.patience(60)


def test_uploads_wait_and_the_rest_goes_on(disk: Disk, daemon: Daemon) -> None:
    session = V2("127.0.0.1", daemon.port)
    digest = session.push_blob("some", b"content")
    locations = [session.start_upload("some") for _ in range(2)]
    flights = [Flight(daemon.port, "PATCH", location, SENT) for location in locations]
    before = peak(daemon)
    disk.freeze()
    taken = [stuck(flight) for flight in flights]
    assert max(taken) < BUFFERED, "more is read than can be written"
    assert session.blob("some", digest).expect(200).body == b"content"
    session.get("/v2/").expect(200)
    assert peak(daemon) - before < BUFFERED
    disk.thaw()
    for flight, count in zip(flights, taken, strict=True):
        with flight:
            flight.send_some(SENT - count)
            assert flight.response().status == 202
