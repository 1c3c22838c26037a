"""Many small ranges for readers that are slow: what they ask for stays on the disk until they read."""

from __future__ import annotations

import re
import socket
from pathlib import Path

from registryd.http.headers import MAX_RANGES
from tests.daemon import Daemon

from .content import Repository, random_bytes
from .wire import Connection, head

RANGE = 32 * 1024
READERS = 6
SLACK = 64 * 1024 * 1024
"""Bytes that the daemon may grow by: a third of what the readers ask for."""


def _resident(daemon: Daemon) -> int:
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{daemon.pid}/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


def _peak(daemon: Daemon) -> int:
    match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{daemon.pid}/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


def _slow(daemon: Daemon) -> Connection:
    """A connection whose receive buffer takes next to nothing."""
    connection = Connection(daemon.address)
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    return connection


def test_slow_readers_of_many_ranges_cost_no_memory(daemon: Daemon, repo: Repository) -> None:
    content = bytes(MAX_RANGES * RANGE)
    path = repo.path(f"blobs/{repo.blob(content)}")
    spans = [(number * RANGE, number * RANGE + RANGE - 1) for number in range(MAX_RANGES)]
    wanted = {"Range": "bytes=" + ",".join(f"{first}-{last}" for first, last in spans)}
    before = _resident(daemon)
    readers = [_slow(daemon) for _ in range(READERS)]
    for reader in readers:
        reader.send(head("GET", path, wanted))
    for reader in readers:
        # What has begun to come has been asked for, and all that follows is up to the reader.
        assert reader.socket.recv(300).startswith(b"HTTP/1.1 206")
    repo.client.get("/v2/").is_(200)
    assert _peak(daemon) - before < SLACK
    for reader in readers:
        reader.close()
    repo.client.get("/v2/").is_(200)


def test_many_ranges_come_whole(daemon: Daemon, repo: Repository) -> None:
    content = random_bytes(300_000)
    path = repo.path(f"blobs/{repo.blob(content)}")
    spans = [(number * 211, number * 211 + 96) for number in range(MAX_RANGES)]
    wanted = {"Range": "bytes=" + ",".join(f"{first}-{last}" for first, last in spans)}
    with Connection(daemon.address) as connection:
        answer = connection.exchange("GET", path, wanted)
        assert answer.status == 206
        boundary = answer.header("Content-Type").partition("boundary=")[2].encode()
        parts = answer.body.split(b"--" + boundary)
        assert (len(parts), parts[-1]) == (MAX_RANGES + 2, b"--\r\n")
        bodies = [part.split(b"\r\n\r\n", 1)[1][:-2] for part in parts[1:-1]]
        assert bodies == [content[first : last + 1] for first, last in spans]
        assert connection.exchange("GET", "/v2/").status == 200
