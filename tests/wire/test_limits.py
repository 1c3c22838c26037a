"""Time: who dawdles is let go, who is merely slow is not."""

from __future__ import annotations

import time

import pytest

from tests.daemon import Daemon

from .content import OCTETS, Repository, digest_of, random_bytes, settled, with_query
from .wire import Client, Connection, ConnectionEndedError, head

CONFIG = {"http": {"limits": {"idletimeout": "1s"}}}
SOON = 5.0
"""Seconds in which a timeout of one second has to have happened."""


def test_an_idle_connection_is_closed(daemon: Daemon) -> None:
    with Connection(daemon.address, timeout=SOON) as connection:
        started = time.monotonic()
        connection.ends()
        assert time.monotonic() - started > 0.5


def test_a_connection_that_is_idle_after_an_answer_is_closed(daemon: Daemon) -> None:
    with Connection(daemon.address, timeout=SOON) as connection:
        connection.exchange("GET", "/v2/").is_(200)
        started = time.monotonic()
        assert connection.ends() == b""
        assert time.monotonic() - started > 0.5


@pytest.mark.parametrize("beginning", [b"", b"GET /v2/ HTTP/1.1\r\n", b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_a_header_that_dribbles_in_is_not_waited_for(daemon: Daemon, beginning: bytes) -> None:
    with Connection(daemon.address) as connection:
        connection.send(beginning)
        started = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() - started < SOON:
                connection.send(b"x")
                time.sleep(0.1)


def test_a_body_that_stops_is_not_waited_for(daemon: Daemon, repo: Repository) -> None:
    location = repo.start()
    with Connection(daemon.address, timeout=SOON) as connection:
        connection.send(head("PATCH", location, {"Content-Length": "1000"}), b"x" * 400)
        for response in connection.answers("PATCH"):
            assert response.status in (400, 408), response
    repo.client.close()  # it has been idle too
    deadline = time.monotonic() + SOON
    while repo.client.get(location).is_(204).header("Range") != "0-399":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    content = b"x" * 400 + b"y"
    settled(lambda: repo.client.put(with_query(location, f"digest={digest_of(content)}"), OCTETS, b"y")).is_(201)


def test_a_slow_body_is_waited_for(daemon: Daemon, repo: Repository) -> None:
    with Connection(daemon.address) as connection:
        connection.send(head("PATCH", repo.start(), {"Content-Length": "8"}))
        for _ in range(8):
            time.sleep(0.3)
            connection.send(b"x")
        assert connection.receive("PATCH").is_(202).header("Range") == "0-7"


LARGE = random_bytes(24 * 1024 * 1024)


@pytest.fixture(scope="module")
def large(daemon: Daemon) -> str:
    """The path of a blob that no buffer between holds."""
    client = Client(daemon.address)
    repository = Repository(client, "large")
    path = repository.path(f"blobs/{repository.blob(LARGE)}")
    client.close()
    return path


def test_a_slow_reader_is_waited_for(daemon: Daemon, large: str) -> None:
    with Connection(daemon.address) as connection:
        connection.send(head("GET", large))
        # So much at a time that the buffers between do not hide the progress from the daemon.
        for received in range(2_000_000, 18_000_000, 2_000_000):
            time.sleep(0.3)
            while len(connection.pending) < received:
                connection.pending += connection.socket.recv(2_000_000)
        assert connection.receive().is_(200).body == LARGE


def test_a_reader_that_stops_is_not_waited_for(daemon: Daemon, large: str) -> None:
    with Connection(daemon.address) as connection:
        connection.send(head("GET", large))
        time.sleep(3.5)
        with pytest.raises((ConnectionEndedError, ConnectionError)):
            connection.receive()
