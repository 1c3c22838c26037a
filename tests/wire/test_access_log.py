"""The access log goes where it cannot be written, or to a reader that stops: answers go on all the same."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import SERVE, Daemon

from .conftest import check_undisturbed
from .content import Repository, random_bytes
from .wire import Client, Connection

PIPE = 64 * 1024
"""Bytes that a pipe takes that nobody reads."""

LONG = "x" * 4000


def _with_stdout(path: str | os.PathLike[str]) -> tuple[str, ...]:
    return ("/bin/sh", "-c", f'exec "$@" >"{path}"', "sh", *SERVE)


def _descriptors(daemon: Daemon) -> int:
    return len(list(Path(f"/proc/{daemon.pid}/fd").iterdir()))


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """A daemon whose standard output is a full disk."""
    with Daemon(command=_with_stdout("/dev/full")) as running:
        yield running


@pytest.fixture
def stalled(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon whose standard output nobody reads."""
    fifo = tmp_path / "log"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDWR)
    daemon = Daemon(command=_with_stdout(fifo))
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.kill()
        daemon.close()
        os.close(reader)


def test_answers_go_on_when_the_log_is_full(daemon: Daemon) -> None:
    with Connection(daemon.address) as connection:
        for _ in range(20):
            assert connection.exchange("GET", "/v2/").status == 200


def test_connections_end_when_the_log_is_full(daemon: Daemon, client: Client) -> None:
    client.get("/v2/").is_(200)
    before = _descriptors(daemon)
    for _ in range(20):
        with Connection(daemon.address) as connection:
            answer = connection.exchange("GET", "/v2/", {"Connection": "close"})
            assert answer.status == 200
            assert connection.ends() == b""
    client.get("/v2/").is_(200)
    assert _descriptors(daemon) <= before + 2


def test_pushes_and_pulls_go_on_when_the_log_is_full(repo: Repository) -> None:
    image = repo.image("latest")
    assert repo.get("latest").is_(200).body == image.content


def test_answers_go_on_when_the_log_is_not_read(stalled: Daemon) -> None:
    client = Client(stalled.address)
    for _ in range(4 * PIPE // len(LONG)):
        client.get("/v2/", {"User-Agent": LONG}).is_(200)
    repo = Repository(client, "team/app")
    digest = repo.blob(random_bytes(1000))
    assert repo.holds(digest)
    client.close()
    check_undisturbed(stalled)


def test_the_daemon_ends_though_its_log_is_not_read(stalled: Daemon) -> None:
    client = Client(stalled.address)
    for _ in range(4 * PIPE // len(LONG)):
        client.get("/v2/", {"User-Agent": LONG}).is_(200)
    client.close()
    os.kill(stalled.pid, signal.SIGTERM)
    assert stalled.wait(10) == 0
