"""A port that speaks TLS, and who takes it for another."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from tests.clients.certificates import issue
from tests.daemon import Daemon


def test_plain_http_is_one_line_in_the_log(tmp_path: Path) -> None:
    files = issue(tmp_path, ["127.0.0.1"], [])
    with Daemon(http={"tls": {"certificate": str(files.certificate), "key": str(files.key)}}) as daemon:
        with socket.create_connection(("127.0.0.1", daemon.port), timeout=10) as plain:
            plain.sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
            while plain.recv(1024):
                pass
        daemon.err.wait_for("plain HTTP on a port that speaks TLS")
        trust = ssl.create_default_context(cafile=str(files.authority))
        with trust.wrap_socket(
            socket.create_connection(("127.0.0.1", daemon.port)), server_hostname="127.0.0.1"
        ) as tls:
            tls.sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert tls.recv(1024).startswith(b"HTTP/1.1 200 OK\r\n")
        assert daemon.stderr.count("plain HTTP on a port") == 1
        assert "Traceback" not in daemon.stderr
