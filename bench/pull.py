"""Pulls content over one connection and drops it: a process of its own, so that it is no part of the load's process.

It prints the wall time of the pulls in seconds, and the time until the first byte of the first answer came.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import selectors
import socket
import ssl
import sys
import time

_BUFFER = 1 << 20


def main() -> None:
    options = _parser().parse_args()
    if options.clients > 1:
        _pull_together(options)
        return
    host, _, port = options.address.partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as plain:
        connection = _secured(plain, host, options) if options.certificate else plain
        request = f"GET {options.target} HTTP/1.1\r\nHost: {options.address}\r\nAccept-Encoding: identity\r\n\r\n"
        start, first = time.monotonic(), 0.0
        for _ in range(options.count):
            connection.sendall(request.encode())
            came = _receive(connection, options.digest)
            first = first or came - start
        print(time.monotonic() - start, first)


def _pull_together(options: argparse.Namespace) -> None:
    """Pull once with several clients at the same time; the first byte is the one that the last of them waited for."""
    host, _, port = options.address.partition(":")
    request = f"GET {options.target} HTTP/1.1\r\nHost: {options.address}\r\nConnection: close\r\n\r\n"
    buffer = memoryview(bytearray(_BUFFER))
    left: dict[socket.socket, int] = {}
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        clients = [
            stack.enter_context(socket.create_connection((host, int(port)), timeout=60)) for _ in range(options.clients)
        ]
        start = time.monotonic()
        for client in clients:
            client.sendall(request.encode())
            selector.register(client, selectors.EVENT_READ)
        first = start
        while selector.get_map():
            for key, _events in selector.select():
                source = key.fileobj
                assert isinstance(source, socket.socket)
                if source not in left:
                    length, size = _receive_head(source, buffer)
                    left[source], first = length - size, time.monotonic()
                    continue
                size = source.recv_into(buffer)
                left[source] -= size
                if not size:
                    selector.unregister(source)
        wall = time.monotonic() - start
    if set(left.values()) != {0}:
        sys.exit(f"bytes that did not come, by client: {sorted(left.values())}")
    print(wall, first - start)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.pull", description=__doc__)
    parser.add_argument("--certificate", help="speak TLS, and trust this one")
    parser.add_argument("--suite", help="the TLS cipher suite that must be in use")
    parser.add_argument("--clients", type=int, default=1, help="pull once, by so many at the same time")
    parser.add_argument("--digest", help="verify what comes")
    parser.add_argument("address", help="host:port")
    parser.add_argument("target", help="path and query of the request")
    parser.add_argument("count", type=int)
    return parser


def _secured(plain: socket.socket, host: str, options: argparse.Namespace) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=options.certificate)
    connection = context.wrap_socket(plain, server_hostname=host)
    chosen = connection.cipher()
    if chosen is None or chosen[0] != options.suite:
        sys.exit(f"the server chose {chosen}, not {options.suite}")
    return connection


def _receive(connection: socket.socket, digest: str | None) -> float:
    """Receive an answer; when its first bytes came."""
    buffer = memoryview(bytearray(_BUFFER))
    content = hashlib.sha256()
    length, got = _receive_head(connection, buffer)
    first = time.monotonic()
    content.update(buffer[:got])
    while got < length:
        size = connection.recv_into(buffer)
        if not size:
            sys.exit(f"the connection ended after {got} of {length} bytes")
        if digest:
            content.update(buffer[:size])
        got += size
    if digest and digest != f"sha256:{content.hexdigest()}":
        sys.exit("what came has another digest")
    return first


def _receive_head(connection: socket.socket, buffer: memoryview) -> tuple[int, int]:
    """The body's length, and how much of it came with the head; that is moved to the start of the buffer."""
    got = 0
    while (end := bytes(buffer[:got]).find(b"\r\n\r\n")) < 0:
        size = connection.recv_into(buffer[got:])
        if not size:
            sys.exit("the connection ended before an answer")
        got += size
    status, *lines = bytes(buffer[:end]).decode("latin-1").lower().split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines)
    if status.split(" ")[1] != "200":
        sys.exit(f"the server answered {status}")
    rest = bytes(buffer[end + 4 : got])
    buffer[: len(rest)] = rest
    return int(fields["content-length"]), len(rest)


if __name__ == "__main__":
    main()
