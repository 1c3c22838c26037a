"""A port that speaks TLS, and who takes it for another."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.clients.certificates import issue
from tests.daemon import Daemon

from .wire import head

MIB = 1024 * 1024


@contextmanager
def serving(folder: Path) -> Iterator[tuple[Daemon, ssl.SSLContext]]:
    """A daemon that speaks TLS, and what a client needs to trust it."""
    files = issue(folder, ["127.0.0.1"], [])
    with Daemon(http={"tls": {"certificate": str(files.certificate), "key": str(files.key)}}) as daemon:
        yield daemon, ssl.create_default_context(cafile=str(files.authority))


def connected(daemon: Daemon, trust: ssl.SSLContext) -> ssl.SSLSocket:
    connection = socket.create_connection(("127.0.0.1", daemon.port), timeout=15)
    return trust.wrap_socket(connection, server_hostname="127.0.0.1")


def test_plain_http_is_one_line_in_the_log(tmp_path: Path) -> None:
    with serving(tmp_path) as (daemon, trust):
        with socket.create_connection(("127.0.0.1", daemon.port), timeout=10) as plain:
            plain.sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
            while plain.recv(1024):
                pass
        daemon.err.wait_for("plain HTTP on a port that speaks TLS")
        with connected(daemon, trust) as tls:
            tls.sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert tls.recv(1024).startswith(b"HTTP/1.1 200 OK\r\n")
        assert daemon.stderr.count("plain HTTP on a port") == 1
        assert "Traceback" not in daemon.stderr


def test_a_refused_body_is_read_until_the_client_has_the_answer(tmp_path: Path) -> None:
    with serving(tmp_path) as (daemon, trust), connected(daemon, trust) as tls:
        tls.sendall(head("PUT", "/v2/a/manifests/latest", {"Content-Length": str(16 * MIB)}))
        tls.sendall(bytes(16 * MIB))
        assert tls.recv(1024).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (head("PUT", "/v2/a/manifests/latest", {"Content-Length": str(1 << 40)}), b"413"),
        (b"no request at all\r\n\r\n", b"400"),
    ],
    ids=["body", "no request"],
)
def test_who_never_stops_sending_is_cut_off(tmp_path: Path, request_head: bytes, status: bytes) -> None:
    with serving(tmp_path) as (daemon, trust), connected(daemon, trust) as tls:
        tls.sendall(request_head)
        assert tls.recv(1024).startswith(b"HTTP/1.1 " + status)
        started = time.monotonic()
        with pytest.raises((ConnectionError, ssl.SSLError)):
            while time.monotonic() - started < 10:
                tls.sendall(bytes(MIB))
                time.sleep(0.05)  # Twenty a second will do: at full speed both would only burn the processor.
        assert time.monotonic() - started > 1
