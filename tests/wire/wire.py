"""A client that sends exactly the bytes it is given and reads answers as RFC 9112 says, strictly.

No HTTP library: they normalise paths, merge headers and hide what a server does wrong.
"""

from __future__ import annotations

import errno
import json
import re
import socket
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import attrs

from tests.daemon import Address

TIMEOUT = 15.0
"""Seconds that an answer may take on a machine that is busy with other things."""

Headers = Mapping[str, str] | Mapping[str, bytes] | Iterable[tuple[str, str | bytes]]

_STATUS_LINE = re.compile(r"(HTTP/1\.[01]) ([1-5][0-9]{2}) ?([^\r\n]*)")
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*")
_CHUNK = re.compile(r"([0-9A-Fa-f]+)(;[^\r\n]*)?")


class ConnectionEndedError(Exception):
    """The peer closed the connection before the answer was complete; ``received`` is what had come of it."""

    def __init__(self, received: bytes) -> None:
        super().__init__(f"connection ended after {len(received)} bytes: {received[:200]!r}")
        self.received = received


@attrs.frozen
class Response:
    """An answer: its fields in their order, and the interim answers that came before it."""

    version: str
    status: int
    reason: str
    fields: tuple[tuple[str, str], ...]
    body: bytes = attrs.field(repr=lambda body: repr(body[:400]))
    interim: tuple[int, ...] = ()

    def all(self, name: str) -> list[str]:
        """The values of every field of a name, in any case of its letters."""
        return [value for field, value in self.fields if field.lower() == name.lower()]

    def header(self, name: str) -> str:
        """The value of a field that has to be there, once."""
        values = self.all(name)
        assert len(values) == 1, f"{name} is there {len(values)} times: {self}"
        return values[0]

    def json(self) -> Any:
        media_type = self.header("Content-Type").partition(";")[0]
        assert media_type == "application/json" or media_type.endswith("+json"), self
        return json.loads(self.body)

    @property
    def closing(self) -> bool:
        """Whether the server said that it closes the connection after this answer."""
        tokens = [token.strip().lower() for value in self.all("Connection") for token in value.split(",")]
        return "close" in tokens or (self.version == "HTTP/1.0" and "keep-alive" not in tokens)

    @property
    def location(self) -> str:
        """Path and query of the Location field, whether it is absolute or relative."""
        return path_of(self.header("Location"))

    @property
    def errors(self) -> list[dict[str, Any]]:
        """The entries of an error's body, whose form is checked."""
        document = self.json()
        assert list(document) == ["errors"], self
        entries: list[dict[str, Any]] = document["errors"]
        assert isinstance(entries, list) and entries, self
        for entry in entries:
            assert isinstance(entry, dict) and set(entry) <= {"code", "message", "detail"}, self
            assert re.fullmatch(r"[A-Z_]+", entry["code"]), self
            assert isinstance(entry.get("message", ""), str), self
        return entries

    def refuses(self, status: int | Iterable[int], *codes: str) -> Response:
        """Assert that this is an error with a status and one of some codes; its form is checked in any case."""
        statuses = (status,) if isinstance(status, int) else tuple(status)
        assert self.status in statuses, self
        entries = self.errors
        assert not codes or entries[0]["code"] in codes, self
        return self

    def is_(self, status: int) -> Response:
        """Assert the status."""
        assert self.status == status, self
        return self


def path_of(location: str) -> str:
    """Path and query of a URL or of a reference that begins with its path."""
    parts = urlsplit(location)
    assert parts.path.startswith("/"), f"neither a URL nor an absolute path: {location!r}"
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def link_of(response: Response) -> str | None:
    """Path and query of the next page, if the answer tells one (RFC 8288)."""
    values = response.all("Link")
    if not values:
        return None
    match = re.fullmatch(r'<([^<>]+)>\s*;\s*rel="?next"?', ", ".join(values))
    assert match, response
    return path_of(match[1])


def head(
    method: str, target: str | bytes, headers: Headers = (), version: str = "HTTP/1.1", host: str = "wire"
) -> bytes:
    """The bytes of a request up to its body; a Host field comes first unless there is one or ``host`` is empty."""
    fields = list(headers.items() if isinstance(headers, Mapping) else headers)
    if host and not any(name.lower() == "host" for name, _ in fields):
        fields.insert(0, ("Host", host))
    start = b" ".join([method.encode("latin-1"), _bytes(target), version.encode("latin-1")])
    return b"\r\n".join([start, *(b"%s: %s" % (_bytes(name), _bytes(value)) for name, value in fields), b"", b""])


def chunked(*parts: bytes) -> bytes:
    """Parts as the chunks of a body, with its end."""
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts if part) + b"0\r\n\r\n"


class Connection:
    """One connection to the daemon."""

    def __init__(self, address: Address, timeout: float = TIMEOUT) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.settimeout(timeout)
        self.socket.connect(address)
        if family == socket.AF_INET:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.pending = b""

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def send(self, *parts: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(b"".join(parts))

    def finish(self) -> None:
        """Say that nothing more will be sent; the peer may have gone already."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise

    def receive(self, method: str = "GET") -> Response:
        """The next answer, which is one to a request of a method."""
        interim: list[int] = []
        while True:
            version, status, reason, fields = self._receive_head()
            if status >= 200 or status == 101:
                break
            interim.append(status)
        body = self._receive_body(method, status, fields)
        return Response(version, status, reason, fields, body, tuple(interim))

    def receive_interim(self) -> int:
        """The status of the next answer, which has to be an interim one."""
        _, status, _, fields = self._receive_head()
        assert status < 200, (status, fields)
        return status

    def exchange(
        self, method: str, target: str | bytes, headers: Headers = (), body: bytes = b"", version: str = "HTTP/1.1"
    ) -> Response:
        """Send a request, its body as it is, and receive the answer."""
        self.send(head(method, target, headers, version), body)
        return self.receive(method)

    def ends(self) -> bytes:
        """All that still comes, once the peer has closed the connection in any way; TimeoutError if it does not."""
        received, self.pending = self.pending, b""
        try:
            while content := self.socket.recv(65536):
                received += content
        except ConnectionError:
            pass
        return received

    def answers(self, method: str = "GET") -> list[Response]:
        """All answers until the peer closes the connection."""
        responses = []
        while True:
            try:
                responses.append(self.receive(method))
            except ConnectionEndedError as ended:
                assert not ended.received, ended
                return responses
            except ConnectionError:
                return responses

    def _more(self) -> None:
        content = self.socket.recv(262144)
        if not content:
            raise ConnectionEndedError(self.pending)
        self.pending += content

    def _receive_head(self) -> tuple[str, int, str, tuple[tuple[str, str], ...]]:
        while b"\r\n\r\n" not in self.pending:
            self._more()
        text, self.pending = self.pending.split(b"\r\n\r\n", 1)
        first, *lines = text.decode("latin-1").split("\r\n")
        status_line = _STATUS_LINE.fullmatch(first)
        assert status_line, f"no status line: {first!r}"
        fields = [_FIELD.fullmatch(line) for line in lines]
        assert all(fields), f"not all are header fields: {lines}"
        return status_line[1], int(status_line[2]), status_line[3], tuple((f[1], f[2]) for f in fields if f)

    def _receive_body(self, method: str, status: int, fields: tuple[tuple[str, str], ...]) -> bytes:
        lengths = [value for name, value in fields if name.lower() == "content-length"]
        codings = [value.lower() for name, value in fields if name.lower() == "transfer-encoding"]
        assert len(lengths) + len(codings) <= 1, f"more than one length: {fields}"
        assert all(re.fullmatch("[0-9]+", length) for length in lengths), fields
        assert not (codings and status in (204, 304)), fields
        if method == "HEAD" or status in (204, 304):
            return b""
        if codings:
            assert codings == ["chunked"], fields
            return self._receive_chunks()
        if lengths:
            return self._take(int(lengths[0]))
        return self.ends()

    def _receive_chunks(self) -> bytes:
        body = b""
        while True:
            size = _CHUNK.fullmatch(self._line())
            assert size, "no chunk size"
            length = int(size[1], 16)
            body += self._take(length)
            if length == 0:
                while self._line():
                    pass
                return body
            assert self._take(2) == b"\r\n"

    def _line(self) -> str:
        while b"\r\n" not in self.pending:
            self._more()
        line, self.pending = self.pending.split(b"\r\n", 1)
        return line.decode("latin-1")

    def _take(self, count: int) -> bytes:
        parts = [self.pending[:count]]
        self.pending = self.pending[count:]
        missing = count - len(parts[0])
        while missing:
            content = self.socket.recv(min(missing, 1048576))
            if not content:
                raise ConnectionEndedError(b"".join(parts))
            parts.append(content)
            missing -= len(content)
        return b"".join(parts)


class Client:
    """Sends requests one after another on one connection, as long as the server keeps it open.

    An answer of 500 and more, bytes that nobody asked for, or a connection that ends unannounced fail the test.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.host = "localhost" if isinstance(address, str) else f"{address[0]}:{address[1]}"
        self._connection: Connection | None = None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def request(self, method: str, target: str | bytes, headers: Headers = (), body: bytes | None = None) -> Response:
        """One request with its answer; a body, even an empty one, is sent with a Content-Length."""
        fields = list(headers.items() if isinstance(headers, Mapping) else headers)
        framed = any(name.lower() in ("content-length", "transfer-encoding") for name, _ in fields)
        if body is not None and not framed:
            fields.append(("Content-Length", str(len(body))))
        if self._connection is None:
            self._connection = Connection(self.address)
        self._connection.send(head(method, target, fields, host=self.host), body or b"")
        response = self._connection.receive(method)
        assert response.status < 500, (method, target, response)
        assert not self._connection.pending, (method, target, response, self._connection.pending)
        if response.closing:
            assert self._connection.ends() == b""
            self.close()
        return response

    def get(self, target: str | bytes, headers: Headers = ()) -> Response:
        return self.request("GET", target, headers)

    def head(self, target: str | bytes, headers: Headers = ()) -> Response:
        return self.request("HEAD", target, headers)

    def post(self, target: str | bytes, headers: Headers = (), body: bytes = b"") -> Response:
        return self.request("POST", target, headers, body)

    def put(self, target: str | bytes, headers: Headers = (), body: bytes = b"") -> Response:
        return self.request("PUT", target, headers, body)

    def patch(self, target: str | bytes, headers: Headers = (), body: bytes = b"") -> Response:
        return self.request("PATCH", target, headers, body)

    def delete(self, target: str | bytes, headers: Headers = ()) -> Response:
        return self.request("DELETE", target, headers)


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")
