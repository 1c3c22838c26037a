"""The v2 API in plain HTTP calls, so that a fault which client and server share cannot hide."""

from __future__ import annotations

import hashlib
import http.client
import json
import ssl
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import attrs

ANY = ", ".join(
    (
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "*/*",
    )
)
"""An Accept that Distribution 2.8 understands too: it makes schema 1 of an image that is asked for with a wildcard."""


def digest_of(content: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


@attrs.frozen
class Answer:
    """An HTTP response, read whole."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes = attrs.field(repr=False)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def location(self) -> str:
        """The path and query that Location names."""
        parts = urlsplit(self.headers["Location"])
        return f"{parts.path}?{parts.query}" if parts.query else parts.path

    def expect(self, *statuses: int) -> Answer:
        """This answer.

        Errors:
            AssertionError: its status is none of these.
        """
        assert self.status in statuses, f"{self.status} instead of {statuses}: {self.body[:400]!r}"
        return self


class V2:
    """One connection to a registry; it is opened when needed."""

    def __init__(self, host: str, port: int, *, tls: ssl.SSLContext | None = None, seconds: float = 30) -> None:
        self._connection = (
            http.client.HTTPConnection(host, port, timeout=seconds)
            if tls is None
            else http.client.HTTPSConnection(host, port, timeout=seconds, context=tls)
        )

    def close(self) -> None:
        self._connection.close()

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request and read its answer; a body of several parts goes out chunked unless a length is given.

        Errors:
            OSError, http.client.HTTPException: the connection broke before there was an answer.
        """
        sent = dict(headers or {})
        chunked = body is not None and not isinstance(body, bytes) and "Content-Length" not in sent
        if chunked:
            sent["Transfer-Encoding"] = "chunked"
        try:
            self._connection.request(method, path, body=body, headers=sent, encode_chunked=chunked)
        except (BrokenPipeError, ConnectionResetError):
            # A server that answers early closes while the body is still on its way; its answer may be here already.
            if self._connection.sock is None:
                raise
        try:
            response = self._connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        except BaseException:
            self._connection.close()
            raise

    def open(self, path: str) -> http.client.HTTPResponse:
        """The response to a GET, whose body is still to be read."""
        self._connection.request("GET", path)
        return self._connection.getresponse()

    def get(self, path: str, accept: str = ANY) -> Answer:
        return self.ask("GET", path, headers={"Accept": accept})

    def start_upload(self, repository: str) -> str:
        """The path of a new upload session."""
        return self.ask("POST", f"/v2/{repository}/blobs/uploads/", b"").expect(202).location

    def push_blob(self, repository: str, content: bytes, algorithm: str = "sha256") -> str:
        """Store a blob by POST and PUT; its digest."""
        digest = digest_of(content, algorithm)
        location = self.start_upload(repository)
        octets = {"Content-Type": "application/octet-stream"}
        self.ask("PUT", with_digest(location, digest), content, octets).expect(201)
        return digest

    def push_manifest(self, repository: str, reference: str, content: bytes, media_type: str) -> str:
        """Store a manifest; its digest, as the registry tells it."""
        answer = self.ask("PUT", f"/v2/{repository}/manifests/{reference}", content, {"Content-Type": media_type})
        return answer.expect(201).headers["Docker-Content-Digest"]

    def manifest(self, repository: str, reference: str, accept: str = ANY) -> Answer:
        return self.get(f"/v2/{repository}/manifests/{reference}", accept)

    def blob(self, repository: str, digest: str) -> Answer:
        return self.get(f"/v2/{repository}/blobs/{digest}")

    def tags(self, repository: str) -> list[str]:
        return list(self.get(f"/v2/{repository}/tags/list").expect(200).json["tags"] or [])

    def catalog(self) -> list[str]:
        return list(self.get("/v2/_catalog?n=1000").expect(200).json["repositories"])


def with_digest(location: str, digest: str) -> str:
    """An upload session's path that closes it as a blob."""
    return f"{location}{'&' if '?' in location else '?'}digest={digest}"
