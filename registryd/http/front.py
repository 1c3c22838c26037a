"""The front: which endpoint answers a request, and what every answer has in common."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote

import attrs
from klein import Klein
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.routing import BaseConverter

from registryd.errors import MalformedRequest, NameUnknown, RegistryError, Unsupported
from registryd.http import answers, blobs
from registryd.http.answers import API_VERSION, Answer, Urls, as_json, set_header
from registryd.http.headers import query
from registryd.http.lists import Lists
from registryd.http.manifests import Manifests
from registryd.http.streaming import StreamingRequest
from registryd.http.uploads import Uploads
from registryd.interfaces import IAccess, INamespaces, IRegistry
from registryd.reference import RepositoryName, parse_name

_log = Logger()

Endpoint = Callable[..., "Deferred[Answer] | Coroutine[Deferred[Any], Any, bytes]"]

_GET = ("GET", "HEAD")
_READS = (b"GET", b"HEAD")

# What pulls ask for. A third of their cost would be to route them like everything else, and they are most requests.
_PULL = re.compile(rb"/v2/(.+)/(?:manifests/([A-Za-z0-9_.:-]+)|blobs/([a-z0-9]+:[a-f0-9]+))")

# Docker's form of a mirror's path, which names a registry before the API. Containerd's store in Docker uses it.
_BEFORE = re.compile(rb"/([^/]+)/v2(?=/|$)")


class _Name(BaseConverter):
    """All up to the last route's word: ``registryd.reference`` judges what it is, and can say why it is no name.

    A repository may be called like a route, ``x/manifests/y``.
    """

    regex = ".*"
    part_isolating = False


class _Item(BaseConverter):
    """A tag, digest or session, whatever it looks like."""

    regex = "[^/]*"
    part_isolating = False


@attrs.frozen
class Limits:
    """What requests may be: bytes of a manifest and of a blob, entries of a list's page."""

    manifest: int
    upload: int | None
    tags: int
    catalog: int


class Front:
    """The v2 API, and what is left of the first one, over the registries that an access control gives out.

    ``namespaces`` is None where no registry is mirrored: clients' names are those of the tree then.
    """

    def __init__(
        self,
        access: IAccess,
        urls: Urls,
        limits: Limits,
        headers: Mapping[str, Sequence[str]],
        namespaces: INamespaces | None = None,
    ) -> None:
        self._access = access
        self._namespaces = namespaces
        self._headers = [(API_VERSION[0], [API_VERSION[1]])]
        for name, values in headers.items():
            self._headers.append((name.encode("utf-8"), [value.encode("utf-8") for value in values]))
        self._prefix = urls.prefix.rstrip("/")
        self._manifests = Manifests(urls, limits.manifest)
        self._app = Klein()
        self._app.url_map.merge_slashes = False
        self._app.url_map.converters.update({"name": _Name, "item": _Item})
        uploads = Uploads(urls, limits.upload, self._find)
        self._route_all(self._manifests, uploads, Lists(limits.tags, limits.catalog))
        on_error: Any = self._app.handle_errors
        on_error(RegistryError)(self._refuse)
        on_error(HTTPException)(self._no_route)
        on_error(Exception)(self._fail)
        self._resource = self._app.resource()

    def resource(self) -> IResource:
        """What a site serves."""
        return _Root(self._resource, self._headers, self._prefix.encode("ascii"), self._pull, self._namespaces)

    def _route_all(self, manifests: Manifests, uploads: Uploads, lists: Lists) -> None:
        route = self._route
        route("/v2/", _GET, _ping)
        route("/v2/_catalog", _GET, lists.catalog)
        route("/v2/<name:name>/manifests/<item:reference>", _GET, manifests.get)
        route("/v2/<name:name>/manifests/<item:reference>", ("PUT",), manifests.put)
        route("/v2/<name:name>/manifests/<item:reference>", ("DELETE",), manifests.delete)
        route("/v2/<name:name>/blobs/<item:digest>", _GET, blobs.get)
        route("/v2/<name:name>/blobs/<item:digest>", ("DELETE",), blobs.delete)
        route("/v2/<name:name>/blobs/uploads", ("POST",), uploads.start)
        route("/v2/<name:name>/blobs/uploads/", ("POST",), uploads.start)
        route("/v2/<name:name>/blobs/uploads/<id>", _GET, uploads.status)
        route("/v2/<name:name>/blobs/uploads/<id>", ("PATCH",), uploads.patch)
        route("/v2/<name:name>/blobs/uploads/<id>", ("PUT",), uploads.put)
        route("/v2/<name:name>/blobs/uploads/<id>", ("DELETE",), uploads.cancel)
        route("/v2/<name:name>/tags/list", _GET, lists.tags)
        route("/v2/<name:name>/referrers/<item:digest>", _GET, lists.referrers)
        route("/v1/_ping", _GET, _ping_v1)
        route("/v1/search", _GET, lists.search)
        self._app.route(self._prefix + "/v2", methods=_GET, endpoint="v2", strict_slashes=False)(self._to_v2)
        self._app.route("/", methods=_GET, endpoint="root")(_root)

    def _route(self, pattern: str, methods: Sequence[str], endpoint: Endpoint) -> None:
        def call(request: StreamingRequest, **arguments: str) -> Deferred[Answer]:
            return self._call(endpoint, request, arguments)

        name = f"{methods[0]} {pattern}"
        self._app.route(self._prefix + pattern, methods=methods, endpoint=name, strict_slashes=True)(call)

    def _call(self, endpoint: Endpoint, request: StreamingRequest, arguments: dict[str, Any]) -> Deferred[Answer]:
        if "name" in arguments:
            arguments["name"] = self._resolve(request, arguments["name"])
        authorization = request.requestHeaders.getRawHeaders(b"authorization")
        registry = self._access.registry_for(authorization[0] if authorization else None)
        return registry.addCallback(_run, endpoint, request, arguments)

    def _resolve(self, request: StreamingRequest, name: str) -> RepositoryName:
        if self._namespaces is None:
            return parse_name(name)
        request.route = route = self._namespaces.resolve(name, query(request, b"ns"), request.before)
        if route.namespace is not None:
            set_header(request, b"oci-namespace", route.namespace)
        return route.name

    def _find(self, name: str) -> RepositoryName:
        return parse_name(name) if self._namespaces is None else self._namespaces.resolve(name, None, None).name

    def _pull(self, request: StreamingRequest, name: bytes, reference: bytes | None, digest: bytes | None) -> None:
        """Answer a pull. It is what Klein would do with the routes above."""
        if reference is not None:
            endpoint: Endpoint = self._manifests.get
            arguments = {"name": name.decode("ascii"), "reference": reference.decode("ascii")}
        else:
            endpoint = blobs.get
            arguments = {"name": name.decode("ascii"), "digest": (digest or b"").decode("ascii")}
        try:
            answer = self._call(endpoint, request, arguments)
        except RegistryError as error:
            answer = succeed(answers.error(request, error))
        answer.addErrback(self._pull_failed, request).addCallback(_finish, request)

    def _pull_failed(self, failure: Failure, request: StreamingRequest) -> bytes:
        return self._refuse(request, failure) if failure.check(RegistryError) else self._fail(request, failure)

    def _to_v2(self, request: StreamingRequest) -> bytes:
        before = "" if request.before is None else f"/{quote(request.before, safe=':')}"
        set_header(request, b"location", f"{self._prefix}{before}/v2/")
        return answers.empty(request, 301)

    def _refuse(self, request: StreamingRequest, failure: Failure) -> bytes:
        error = failure.value
        assert isinstance(error, RegistryError)
        if request.startedWriting:
            # A blob that its upstream broke off, or sent wrong: the client must not take this for its end.
            _log.warn("{method} {uri}: broken off: {error}", method=request.method, uri=request.uri, error=error)
            request.break_off()
            return b""
        return answers.error(request, error)

    def _no_route(self, request: StreamingRequest, failure: Failure) -> bytes:
        error = failure.value
        if isinstance(error, MethodNotAllowed):
            set_header(request, b"allow", ", ".join(sorted(error.valid_methods or ())))
            return answers.error(request, Unsupported(f"{request.method.decode('latin-1')} is not supported here"))
        return answers.error(request, NameUnknown("no such route"))

    def _fail(self, request: StreamingRequest, failure: Failure) -> bytes:
        _log.failure("{method} {uri}", failure, method=request.method, uri=request.uri)
        if request.startedWriting:
            request.break_off()
            return b""
        return answers.error(request, RegistryError())


class _Root(Resource):
    """Sets what every answer has, and keeps from Klein what it would answer without JSON."""

    isLeaf = True

    def __init__(
        self,
        app: IResource,
        headers: Sequence[tuple[bytes, list[bytes]]],
        prefix: bytes,
        pull: Callable[[StreamingRequest, bytes, bytes | None, bytes | None], None],
        namespaces: INamespaces | None,
    ) -> None:
        super().__init__()
        self._app = app
        self._headers = headers
        self._prefix = prefix
        self._pull = pull
        self._namespaces = namespaces

    def render(self, request: StreamingRequest) -> int:
        for name, values in self._headers:
            request.responseHeaders.setRawHeaders(name, values)
        refusal = _malformed(request)
        if refusal is not None:
            _finish(answers.error(request, refusal), request)
            return NOT_DONE_YET
        if request.path.startswith(self._prefix):
            api = len(self._prefix) if self._namespaces is None else self._skip_upstream(request, self._namespaces)
            pulled = _PULL.fullmatch(request.path, api) if request.method in _READS else None
            if pulled is not None and request.path.isascii() and b"%" not in request.path:
                self._pull(request, *pulled.groups())
                return NOT_DONE_YET
        if not request.path.isascii() or b"%" in request.path:
            # What is no UTF-8 becomes what no name, tag or digest can hold.
            request.postpath = [part.decode("utf-8", "replace").encode("utf-8") for part in request.postpath or ()]
        rendered: int = self._app.render(request)
        return rendered

    def _skip_upstream(self, request: StreamingRequest, namespaces: INamespaces) -> int:
        """Where the API begins in a path: behind the prefix and an upstream, which is taken out of what Klein sees."""
        begin = len(self._prefix)
        if request.path.startswith(b"/v2/", begin):
            return begin
        selects = _BEFORE.match(request.path, begin)
        host = unquote(selects[1].decode("latin-1")) if selects is not None else ""
        if selects is None or not namespaces.is_upstream(host):
            return begin
        request.before = host
        request.postpath = list(request.postpath or ())
        del request.postpath[self._prefix.count(b"/")]
        return selects.end(1)


def _finish(answer: Answer, request: StreamingRequest) -> None:
    if request.has_left:
        return
    if answer:
        request.write(answer)
    request.finish()


def _malformed(request: StreamingRequest) -> RegistryError | None:
    """What is wrong with a request before it has a route."""
    hosts = request.requestHeaders.getRawHeaders(b"host") or ()
    if (len(hosts) != 1 and request.clientproto == b"HTTP/1.1") or not all(map(answers.is_host, hosts)):
        return MalformedRequest("a request needs one valid Host header")
    if not request.method.isupper():
        return Unsupported("methods are in upper case")
    if request.path[:2] == b"//":
        return NameUnknown("no such route")
    return None


def _run(
    registry: IRegistry, endpoint: Endpoint, request: StreamingRequest, arguments: dict[str, Any]
) -> Answer | Deferred[Answer]:
    answer = endpoint(registry, request, **arguments)
    if isinstance(answer, Deferred):
        return answer
    work: Deferred[Answer] = Deferred.fromCoroutine(answer)
    return _shielded(work)


def _shielded(work: Deferred[Answer]) -> Deferred[Answer]:
    """Work that goes on when the client has left: what runs in a thread cannot be cancelled, and must be waited for."""
    shielded: Deferred[Answer] = Deferred()
    work.chainDeferred(shielded)
    return shielded


def _ping(registry: IRegistry, request: StreamingRequest) -> Deferred[Answer]:
    """end-1: this is a registry of the v2 API."""
    return succeed(as_json(request, {}))


def _ping_v1(registry: IRegistry, request: StreamingRequest) -> Deferred[Answer]:
    """What old clients ask before they search. Source: Docker's registry API v1."""
    set_header(request, b"x-docker-registry-version", b"0.0.0")
    set_header(request, b"x-docker-registry-standalone", b"true")
    return succeed(as_json(request, True))


def _root(request: StreamingRequest) -> bytes:
    set_header(request, b"cache-control", b"no-cache")
    return answers.empty(request, 200)
