"""Memory stays flat, however much and however slowly is pushed and pulled."""

from __future__ import annotations

import hashlib
import shutil
import ssl
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.clients.certificates import issue
from tests.clients.v2 import V2, with_digest
from tests.daemon import Daemon

from .flight import Flight
from .memory import peak

LIMIT = 250_000_000
MIB = 1 << 20
PART = bytes(range(256)) * (MIB // 256)


def parts(number: int, size: int) -> Iterator[bytes]:
    """Content of its own for each number."""
    yield number.to_bytes(8, "big") + PART[8:]
    for _ in range(size // MIB - 1):
        yield PART


def digest(number: int, size: int) -> str:
    state = hashlib.sha256()
    for part in parts(number, size):
        state.update(part)
    return f"sha256:{state.hexdigest()}"


def push(port: int, number: int, size: int, expected: str, tls: ssl.SSLContext | None = None) -> None:
    session = V2("127.0.0.1", port, seconds=300, tls=tls)
    location = session.start_upload("some")
    location = session.ask("PATCH", location, parts(number, size)).expect(202).location
    session.ask("PUT", with_digest(location, expected), b"").expect(201)
    session.close()


def pull(port: int, size: int, expected: str, everyone: threading.Barrier) -> None:
    """Ask for a blob, read nothing until everybody has asked, then all of it."""
    with Flight(port, "GET", f"/v2/some/blobs/{expected}", receive_buffer=4 * MIB, seconds=300) as flight:
        response = flight.response()
        assert response.status == 200
        everyone.wait(300)
        state, total = hashlib.sha256(), 0
        while part := response.read(MIB):
            state.update(part)
            total += len(part)
        assert total == size
        assert f"sha256:{state.hexdigest()}" == expected


def load(daemon: Daemon, clients: int, size: int) -> None:
    """Let as many clients push, each its own blob, and as many pull one, at once."""
    pulled = digest(0, size)
    push(daemon.port, 0, size, pulled)
    digests = {number: digest(number, size) for number in range(1, clients + 1)}
    everyone = threading.Barrier(2 * clients)

    def pushing(number: int) -> None:
        everyone.wait(300)
        push(daemon.port, number, size, digests[number])

    with ThreadPoolExecutor(2 * clients) as pool:
        tasks = [pool.submit(pull, daemon.port, size, pulled, everyone) for _ in digests]
        tasks += [pool.submit(pushing, number) for number in digests]
        for task in tasks:
            task.result()
    assert peak(daemon) < LIMIT


def test_pushes_and_pulls_at_once() -> None:
    with Daemon() as daemon:
        load(daemon, 8, 128 * MIB)


@pytest.mark.soak
def test_many_large_pushes_and_pulls_at_once() -> None:
    needed = 70 << 30
    if shutil.disk_usage(tempfile.gettempdir()).free < needed:
        pytest.skip(f"needs {needed >> 30} GiB in {tempfile.gettempdir()}; TMPDIR can name another place")
    with Daemon() as daemon:
        load(daemon, 64, 1 << 30)


def test_tls(tmp_path: Path) -> None:
    """TLS cannot use sendfile: what a client does not read must not pile up in the daemon."""
    files = issue(tmp_path, ["127.0.0.1"], [])
    trust = ssl.create_default_context(cafile=str(files.authority))
    size, expected = 128 * MIB, digest(0, 128 * MIB)
    with Daemon(http={"tls": {"certificate": str(files.certificate), "key": str(files.key)}}) as daemon:
        push(daemon.port, 0, size, expected, trust)
        stalled = [V2("127.0.0.1", daemon.port, tls=trust, seconds=120) for _ in range(6)]
        responses = [session.open(f"/v2/some/blobs/{expected}") for session in stalled]
        push(daemon.port, 1, size, digest(1, size), trust)
        assert peak(daemon) < LIMIT
        for session, response in zip(stalled, responses, strict=True):
            while response.read(MIB):
                pass
            session.close()
        assert peak(daemon) < LIMIT
