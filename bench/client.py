"""A client of the registry API that checks each answer, and the header fields that a Docker engine sends.

The fields are those of Docker Engine 20.10 (Debian 12), as seen on the wire. It also sends `Connection: close`; here
connections are kept, as containerd, podman and newer engines keep them, where a row does not say otherwise.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from urllib.parse import urlsplit

import attrs

from bench.servers import Server

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"

_AGENT = (
    "User-Agent",
    "docker/20.10.24+dfsg1 go/go1.19.8 git-commit/5d6db84 kernel/6.1.0-18-amd64 os/linux arch/amd64"
    " UpstreamClient(Docker-Client/20.10.24+dfsg1 \\(linux\\))",
)
BLOB_FIELDS = (_AGENT, ("Accept-Encoding", "gzip"))
HEAD_FIELDS = (_AGENT,)
MANIFEST_FIELDS = (
    _AGENT,
    ("Accept", "application/vnd.oci.image.index.v1+json"),
    ("Accept", "application/vnd.docker.distribution.manifest.v1+prettyjws"),
    ("Accept", "application/json"),
    ("Accept", "application/vnd.oci.image.manifest.v1+json"),
    ("Accept", DOCKER_MANIFEST),
    ("Accept", "application/vnd.docker.distribution.manifest.list.v2+json"),
    ("Accept-Encoding", "gzip"),
)
ONE_REQUEST = (("Connection", "close"),)

_TIMEOUT = 120.0


class AnswerError(Exception):
    """A server answered something else than what the benchmark is about, so that its figure would mean nothing."""


@attrs.frozen
class Answer:
    """A server's answer; the names of its fields are in lower case."""

    status: int
    fields: Mapping[str, str]
    body: bytes


def request_bytes(server: Server, method: str, target: str, fields: Sequence[tuple[str, str]]) -> bytes:
    """A request without a body, as it goes over the wire."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {server.address}", *(f"{name}: {value}" for name, value in fields)]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


class Client:
    """One kept connection to a server; a context manager that closes it."""

    def __init__(self, server: Server) -> None:
        self.connection = _connection(server)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.connection.close()

    def ask(self, method: str, target: str, fields: Sequence[tuple[str, str]] = (), body: bytes = b"") -> Answer:
        """The answer to a request."""
        self._start(method, target, fields)
        if method in ("POST", "PUT"):
            self.connection.putheader("Content-Length", str(len(body)))
        self.connection.endheaders(body or None)
        return self._answer()

    def ask_chunked(self, method: str, target: str, pieces: Iterable[bytes | memoryview]) -> Answer:
        """The answer to a request whose body is sent in pieces, already encoded as chunks, the last one included."""
        self._start(method, target, (*HEAD_FIELDS, ("Transfer-Encoding", "chunked")))
        self.connection.endheaders()
        for piece in pieces:
            self.connection.sock.sendall(piece)
        return self._answer()

    def expect(
        self, status: int, method: str, target: str, fields: Sequence[tuple[str, str]] = (), body: bytes = b""
    ) -> Answer:
        """The answer to a request.

        Errors:
            AnswerError: it has another status.
        """
        return checked(status, f"{method} {target}", self.ask(method, target, fields, body))

    def _start(self, method: str, target: str, fields: Sequence[tuple[str, str]]) -> None:
        self.connection.putrequest(method, target, skip_accept_encoding=True)
        for name, value in fields:
            self.connection.putheader(name, value)

    def _answer(self) -> Answer:
        response = self.connection.getresponse()
        fields = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, fields, response.read())


def _connection(server: Server) -> http.client.HTTPConnection:
    if server.certificate is None:
        return http.client.HTTPConnection(server.address, timeout=_TIMEOUT)
    context = ssl.create_default_context(cafile=server.certificate)
    return http.client.HTTPSConnection(server.address, timeout=_TIMEOUT, context=context)


def checked(status: int, request: str, answer: Answer) -> Answer:
    """The answer, if it has the status.

    Errors:
        AnswerError: it has another.
    """
    if answer.status != status:
        raise AnswerError(f"{request}: {answer.status} instead of {status}: {answer.body[:300]!r}")
    return answer


def location(answer: Answer, digest: str = "") -> str:
    """The request target that an answer's Location means, with the digest that ends an upload where one is given."""
    url = urlsplit(answer.fields["location"])
    query = "&".join(part for part in (url.query, f"digest={digest}" if digest else "") if part)
    return f"{url.path}?{query}" if query else url.path
