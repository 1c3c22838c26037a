"""A request that is under way while its test does something else."""

from __future__ import annotations

import http.client
import socket
from types import TracebackType


class Flight:
    """One HTTP request over a socket of its own, whose body and response the test moves in parts."""

    def __init__(
        self,
        port: int,
        method: str,
        path: str,
        length: int = 0,
        *,
        receive_buffer: int | None = None,
        seconds: float = 30,
    ) -> None:
        self._method = method
        self._socket = socket.socket()
        if receive_buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.settimeout(seconds)
        self._socket.connect(("127.0.0.1", port))
        expect = "Expect: 100-continue\r\n" if length else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: registry\r\nContent-Length: {length}\r\n{expect}\r\n"
        self._socket.sendall(head.encode())
        if length:
            self._await_continue()

    def _await_continue(self) -> None:
        # Once the daemon asks for the body, the request is under way for certain.
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            received = self._socket.recv(1)
            assert received, f"closed instead of 100 Continue: {head!r}"
            head += received
        assert head.startswith(b"HTTP/1.1 100"), head

    def send(self, content: bytes) -> None:
        self._socket.sendall(content)

    def send_some(self, count: int) -> int:
        """Send so many bytes, all alike, or as many as are taken within the patience; how many they were."""
        part, left = bytes(1 << 16), count
        try:
            while left:
                left -= self._socket.send(part[:left])
        except TimeoutError:
            pass
        return count - left

    def patience(self, seconds: float) -> None:
        """How long a step may take from now on."""
        self._socket.settimeout(seconds)

    def response(self) -> http.client.HTTPResponse:
        """The response, with its head read."""
        response = http.client.HTTPResponse(self._socket, method=self._method)
        response.begin()
        return response

    def __enter__(self) -> Flight:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()
