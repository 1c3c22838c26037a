"""Answers: JSON, errors in the specification's form, and the URLs in them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from urllib.parse import quote, urlencode

import attrs
from twisted.web.http import Request

from registryd.errors import RegistryError
from registryd.http.headers import header
from registryd.http.streaming import StreamingRequest
from registryd.reference import Digest, Reference, RepositoryName

_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?|", re.ASCII)

_UNQUOTABLE = re.compile(r"[^\x20-\x7e]")
_LONGEST_WARNING = 4096

API_VERSION = (b"docker-distribution-api-version", b"registry/2.0")
JSON = b"application/json"

Answer = bytes | None
"""The rest of an answer, or None where all of it is written."""


def is_host(value: bytes | str) -> bool:
    """Whether a Host header is one: a name or an address with or without a port, or nothing."""
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    return _HOST.fullmatch(text) is not None


def set_header(request: Request, name: bytes, value: bytes | str) -> None:
    """Set a header of the answer."""
    request.responseHeaders.setRawHeaders(name, [value.encode("utf-8") if isinstance(value, str) else value])


def body(request: Request, content: bytes, media_type: bytes | str = JSON) -> bytes:
    """An answer of some bytes of a type; HEAD is told their number alone."""
    set_header(request, b"content-type", media_type)
    set_header(request, b"content-length", b"%d" % len(content))
    return content


def empty(request: Request, status: int) -> bytes:
    """An answer that is its status and headers."""
    request.setResponseCode(status)
    # RFC 9110, section 8.6: no Content-Length with 204.
    if status not in (204, 304):
        set_header(request, b"content-length", b"0")
    return b""


def as_json(request: Request, value: object, media_type: bytes | str = JSON) -> bytes:
    """An answer in JSON."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return body(request, text.encode("utf-8", "replace"), media_type)


def error(request: Request, failure: RegistryError) -> bytes:
    """An error, in the form of the specification."""
    request.setResponseCode(failure.status)
    if failure.status == 405 and not request.responseHeaders.hasHeader(b"allow"):
        # RFC 9110 asks for it. A registry that refuses a method refuses all that change anything.
        set_header(request, b"allow", b"GET, HEAD")
    warn(request, failure.warning)
    if failure.warning is not None and failure.status == 404:
        # By this a mirror of this registry knows that it means nothing; clients heed it of no 404.
        set_header(request, b"retry-after", _SOON)
    return as_json(request, {"errors": list(failure.entries())})


def next_page(request: StreamingRequest, query: Mapping[str, str | Sequence[str]]) -> None:
    """Tell where the next page is: the same path with another query. Source: RFC 8288."""
    path = request.path.decode("latin-1")
    set_header(request, b"link", f'<{path}?{urlencode({**query, **_namespace(request)}, doseq=True)}>; rel="next"')


def warn(request: Request, warning: str | None) -> None:
    """Tell what the client should know of an answer, if anything.

    Source: OCI distribution specification, "Warnings": 4096 bytes at the most, as RFC 7234, section 5.5, quotes it.
    """
    if warning is None:
        return
    quoted = re.sub(r'(["\\])', r"\\\1", _UNQUOTABLE.sub("?", warning))
    value = f'299 - "{quoted}'[: _LONGEST_WARNING - 1]
    cut_in_two = (len(value) - len(value.rstrip("\\"))) % 2
    set_header(request, b"warning", value[: len(value) - cut_in_two] + '"')


_SOON = b"10"


@attrs.frozen
class Urls:
    """The URLs of a registry's content, as a client can reach it.

    Source: Distribution, registry/api/v2/urls.go: ``http.host``, else what a proxy says, else the request.
    """

    host: str | None
    relative: bool
    prefix: str

    def blob(self, request: StreamingRequest, name: RepositoryName, digest: Digest) -> str:
        return self._absolute(request, f"/v2/{name}/blobs/{digest}")

    def manifest(self, request: StreamingRequest, name: RepositoryName, reference: Reference) -> str:
        return self._absolute(request, f"/v2/{name}/manifests/{reference}")

    def upload(self, request: StreamingRequest, name: RepositoryName, id: str) -> str:
        return self._absolute(request, f"/v2/{name}/blobs/uploads/{quote(id)}")

    def _absolute(self, request: StreamingRequest, path: str) -> str:
        path = self.prefix.rstrip("/") + path
        if namespace := _namespace(request):
            path = f"{path}?{urlencode(namespace)}"
        if self.relative:
            return path
        if self.host is not None:
            return self.host.rstrip("/") + path
        forwarded = _forwarded(header(request, b"forwarded") or "")
        scheme = forwarded.get("proto") or _first(header(request, b"x-forwarded-proto"))
        scheme = (scheme or "").lower()
        if scheme not in ("http", "https"):
            scheme = "https" if request.isSecure() else "http"
        host = forwarded.get("host") or _first(header(request, b"x-forwarded-host"))
        if not host or not is_host(host):
            host = header(request, b"host")
        return f"{scheme}://{host}{path}" if host else path


def _namespace(request: StreamingRequest) -> dict[str, str]:
    """What the query of a URL must say to lead where the request's own ``ns`` has led."""
    if request.route is None or request.route.namespace is None:
        return {}
    return {"ns": request.route.namespace}


def _first(value: str | None) -> str | None:
    return value.partition(",")[0].strip() if value else None


def _forwarded(value: str) -> dict[str, str]:
    """The parameters of the first element of a Forwarded header. Source: RFC 7239."""
    pairs = (pair.partition("=") for pair in value.partition(",")[0].split(";"))
    return {key.strip().lower(): text.strip().strip('"') for key, _, text in pairs}
