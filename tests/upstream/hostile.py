"""A registry that does to its clients all that a good one never does, and counts what it is asked.

In the test's own reactor, with its state at hand:

    hostile = Hostile(reactor)
    hostile.listen()                                     # 127.0.0.1, any port; hostile.url; with TLS: listen(files)
    manifest, layers = hostile.content.image("a/b", "latest", b"layer")
    hostile.switches.break_after = 1000
    ...
    assert hostile.counts["GET blobs"] == 1              # hostile.requests: each with its headers
    await hostile.close()

As a process of its own beside a real daemon: ``process.HostileProcess``, which has the same switches, counts
and content behind ``/_control``.
"""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IDelayedCall, IListeningPort
from twisted.web.http import HTTPChannel
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from registryd.model import OCI_INDEX, Manifest
from registryd.reference import Digest
from tests.clients.certificates import Certificates
from tests.values import image, manifest_of

_ROUTE = re.compile(r"/v2/(.+)/(manifests|blobs|tags|referrers)/([^/]+)")
_PIECE = 64 * 1024


@attrs.define
class Switches:
    """What the registry does wrong; nothing by default. Every field can be set by ``/_control`` too."""

    status: int | None = None  # every answer below /v2/ is this ...
    status_kinds: Sequence[str] = ("manifests", "blobs", "tags", "referrers")  # ... of these kinds ...
    status_times: int | None = None  # ... so often; None: always
    status_names: Sequence[str] = ()  # ... of these repositories; none: of all
    retry_after: str | None = None  # the header of such answers
    refuse_connections: bool = False  # closes without an answer
    slow_head: float = 0.0  # seconds before the head of an answer; -1: it never comes
    break_after: int | None = None  # bodies of blobs are broken off after so many bytes ...
    break_times: int | None = None  # ... so often; None: always
    stall_after: int | None = None  # bodies of blobs stop after so many bytes, and the connection stays
    stall_times: int | None = None
    stall_manifests: bool = False  # heads of manifests come, and nothing behind them
    drip: float = 0.0  # seconds between two pieces of a blob
    piece: int = _PIECE  # bytes of a piece
    length_off: int = 0  # is added to Content-Length of blobs
    corrupt_blobs: bool = False  # a byte is another
    corrupt_manifests: bool = False
    chunked: bool = False  # no Content-Length
    chunked_heads: bool = True  # nor in the answer to HEAD
    no_range: bool = False  # Range is not known: 200 and all
    wrong_range: bool = False  # 206 with another part than was asked for
    no_digest: bool = False  # no Docker-Content-Digest
    wrong_digest: bool = False  # another
    content_type: str | None = None  # of manifests, instead of the right one; empty: none
    html: bool = False  # 200 and a page instead of every manifest
    head_manifests: int | None = None  # the status of HEAD
    head_blobs: int | None = None
    redirect_to: str | None = None  # a URL in front of the paths that blobs are redirected to
    redirect_manifests: bool = False  # manifests too
    redirect_loop: bool = False
    redirect_code: int = 307
    page: int = 0  # tags and referrers on a page at most; 0: all
    no_link: bool = False
    link: str = "relative"  # or absolute, foreign, query
    ignore_pagination: bool = False  # neither n nor last is known: all
    repeat_page: bool = False  # the first page again and again, each with a Link
    no_referrers: int | None = None  # the status of the referrers API
    auth: str | None = None  # basic or token
    refusal: int = 401  # of a basic login that is wrong
    username: str = ""  # empty: tokens are given to everybody
    password: str = ""
    realm: str | None = None  # another token service than /token here
    scope_told: bool = True
    token_field: str = "token"
    token_lifetime: int | None = 300  # expires_in
    token_status: int | None = None  # what the token service answers
    token_delay: float = 0.0
    token_redirect: str | None = None  # a URL in front of the path that the token service redirects to
    refuse_tokens: bool = False  # 401 for ever
    rotate_identity: bool = False  # an identity token is good once, and its answer has the next
    revoked: Sequence[str] = ()  # tokens that are valid no more
    ratelimit: Sequence[str] = ()  # RateLimit-Limit, RateLimit-Remaining, docker-ratelimit-source
    gzip_label: bool = False  # Content-Encoding: gzip on blobs, as some stores label layers


class Content:
    """What the registry holds."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[tuple[str, str], Manifest] = {}
        self.referrers: dict[tuple[str, str], list[Mapping[str, Any]]] = {}

    def blob(self, content: bytes) -> Digest:
        """Hold a blob."""
        digest = Digest.of(content)
        self.blobs[str(digest)] = content
        return digest

    def manifest(self, name: str, manifest: Manifest, *tags: str) -> Manifest:
        """Hold a manifest under its digest and tags."""
        for reference in (str(manifest.digest), *tags):
            self.manifests[name, reference] = manifest
        return manifest

    def image(self, name: str, tag: str, *layers: bytes, config: bytes = b"{}") -> tuple[Manifest, list[Digest]]:
        """Hold an image with all that it consists of; its manifest, and its layers' digests."""
        self.blob(config)
        manifest = self.manifest(name, image(config, *layers), tag)
        return manifest, [self.blob(layer) for layer in layers]

    def tags(self, name: str) -> list[str]:
        return sorted(reference for held, reference in self.manifests if held == name and ":" not in reference)

    def holds(self, name: str) -> bool:
        return any(held == name for held, _ in self.manifests)


@attrs.frozen
class Asked:
    """A request that came: its path has the query."""

    method: str
    path: str
    headers: Mapping[str, str]


class Hostile(Resource):
    """The registry; ``switches``, ``content``, ``requests`` and ``counts`` may be used while it runs."""

    isLeaf = True

    def __init__(self, reactor: Any) -> None:
        super().__init__()
        self.reactor = reactor
        self.switches = Switches()
        self.content = Content()
        self.requests: list[Asked] = []
        self.counts: Counter[str] = Counter()
        self.tokens: list[str] = []
        self.active = 0
        self.most_active = 0
        self.connections = 0
        self.url = ""
        self._ports: list[IListeningPort] = []
        self._channels: set[Any] = set()
        self._calls: set[IDelayedCall] = set()

    def listen(self, tls: Certificates | None = None, host: str = "127.0.0.1", interface: str = "127.0.0.1") -> str:
        """Serve on another free port; its URL, with ``host`` as its name."""
        site = _Site(self)
        if tls is None:
            port = self.reactor.listenTCP(0, site, interface=interface)
        else:
            from twisted.internet.ssl import DefaultOpenSSLContextFactory

            factory = DefaultOpenSSLContextFactory(str(tls.key), str(tls.certificate))
            port = self.reactor.listenSSL(0, site, factory, interface=interface)
        self._ports.append(port)
        self.url = f"{'http' if tls is None else 'https'}://{host}:{port.getHost().port}"
        return self.url

    @property
    def address(self) -> str:
        return self.url.partition("://")[2]

    async def close(self) -> None:
        """Stop, and break off what is still connected."""
        for call in list(self._calls):
            try:
                call.cancel()
            except (AlreadyCalled, AlreadyCancelled):
                pass
        for port in self._ports:
            await maybeDeferred(port.stopListening)
        for channel in list(self._channels):
            channel.transport.abortConnection()
        while self._channels:
            await _turn(self.reactor)

    def reset(self) -> None:
        """Forget what was asked."""
        self.requests.clear()
        self.counts.clear()
        self.most_active = 0
        self.connections = 0

    def later(self, seconds: float, call: Any, *arguments: Any) -> None:
        self._calls = {pending for pending in self._calls if pending.active()}
        self._calls.add(self.reactor.callLater(seconds, call, *arguments))

    def render(self, request: Request) -> Any:
        path = request.uri.decode("ascii")
        method = request.method.decode("ascii")
        if path.startswith("/_control"):
            return self._control(request)
        headers = {
            name.decode("latin-1").lower(): b", ".join(values).decode("latin-1")
            for name, values in request.requestHeaders.getAllRawHeaders()
        }
        self.requests.append(Asked(method, path, headers))
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        request.notifyFinish().addBoth(self._finished)
        if self.switches.slow_head < 0:
            return NOT_DONE_YET
        if self.switches.slow_head:
            self.later(self.switches.slow_head, self._answer, request, method, path)
        else:
            self._answer(request, method, path)
        return NOT_DONE_YET

    def _finished(self, _: object) -> None:
        self.active -= 1

    def _answer(self, request: Request, method: str, path: str) -> None:
        if request._disconnected:
            return
        if self.switches.refuse_connections:
            request.transport.abortConnection()
            return
        where = path.partition("?")[0]
        arguments = {name.decode(): values[-1].decode() for name, values in (request.args or {}).items()}
        if where in ("/token", "/other/token"):
            self.counts[f"{method} token"] += 1
            if self.switches.token_redirect is not None and where == "/token":
                request.setHeader("Location", self.switches.token_redirect + path)
                _say(request, self.switches.redirect_code, b"elsewhere")
                return
            self.later(self.switches.token_delay, self._token, request, arguments)
            return
        if where in ("/v2", "/v2/"):
            self.counts[f"{method} base"] += 1
            if self._authorized(request, ""):
                _say(request, 200, b"{}")
            return
        route = _ROUTE.fullmatch(where)
        if route is None:
            self.counts[f"{method} other"] += 1
            _fail(request, 404, "NAME_UNKNOWN")
            return
        name, kind, reference = route.groups()
        self.counts[f"{method} {kind}"] += 1
        for header, value in zip(_RATE_LIMIT, self.switches.ratelimit, strict=False):
            request.setHeader(header, value)
        if self._refused(request, kind, name):
            return
        if not self._authorized(request, name) or self._redirected(request, kind, path):
            return
        getattr(self, f"_{kind}")(request, name, reference, arguments)

    def _refused(self, request: Request, kind: str, name: str) -> bool:
        switches = self.switches
        if switches.status is None or kind not in switches.status_kinds or switches.status_times == 0:
            return False
        if switches.status_names and name not in switches.status_names:
            return False
        if switches.status_times is not None:
            switches.status_times -= 1
        if switches.retry_after is not None:
            request.setHeader("Retry-After", switches.retry_after)
        _fail(request, switches.status, "TOOMANYREQUESTS" if switches.status == 429 else "UNKNOWN")
        return True

    def _redirected(self, request: Request, kind: str, path: str) -> bool:
        if kind != "blobs" and not (kind == "manifests" and self.switches.redirect_manifests):
            return False
        if self.switches.redirect_loop:
            request.setHeader("Location", path)
        elif self.switches.redirect_to is not None:
            request.setHeader("Location", self.switches.redirect_to + path)
        else:
            return False
        _say(request, self.switches.redirect_code, b"elsewhere")
        return True

    def _authorized(self, request: Request, name: str) -> bool:
        """Whether the login is good; a challenge is the answer where it is not."""
        told = request.getHeader("Authorization") or ""
        if self.switches.auth == "basic":
            if told == self._basic():
                return True
            if told and self.switches.refusal != 401:
                _fail(request, self.switches.refusal, "DENIED")
                return False
            request.setHeader("WWW-Authenticate", 'Basic realm="hostile, \\"quoted\\""')
        elif self.switches.auth == "token":
            token = told.removeprefix("Bearer ")
            good = token in self.tokens and token not in self.switches.revoked and token.startswith(f"{name}:")
            if good and not self.switches.refuse_tokens:
                return True
            request.setHeader("WWW-Authenticate", self._challenge(name))
        else:
            return True
        _fail(request, 401, "UNAUTHORIZED")
        return False

    def _challenge_on(self, request: Request, name: str) -> None:
        if self.switches.auth == "token":
            request.setHeader("WWW-Authenticate", self._challenge(name))

    def _challenge(self, name: str) -> str:
        scope = f',scope="repository:{name}:pull"' if self.switches.scope_told else ""
        return f'Bearer realm="{self.switches.realm or self.url + "/token"}",service="hostile, inc."{scope}'

    def _basic(self) -> str:
        return "Basic " + base64.b64encode(f"{self.switches.username}:{self.switches.password}".encode()).decode()

    def _token(self, request: Request, arguments: Mapping[str, str]) -> None:
        switches = self.switches
        told = request.getHeader("Authorization")
        identity = arguments.get("refresh_token") if request.method == b"POST" else None
        good = not switches.username or told == self._basic() or identity == switches.password
        if switches.token_status is not None or not good:
            _fail(request, switches.token_status or 401, "UNAUTHORIZED")
            return
        name = arguments.get("scope", "::").split(":")[1]
        self.tokens.append(f"{name}:{len(self.tokens)}")
        answer: dict[str, Any] = {switches.token_field: self.tokens[-1]}
        if switches.rotate_identity and identity is not None:
            switches.password += "+"
            answer["refresh_token"] = switches.password
        if switches.token_lifetime is not None:
            answer["expires_in"] = switches.token_lifetime
        _say(request, 200, json.dumps(answer).encode(), "application/json")

    def _manifests(self, request: Request, name: str, reference: str, _: Mapping[str, str]) -> None:
        switches = self.switches
        manifest = self.content.manifests.get((name, reference))
        head = request.method == b"HEAD"
        if head and switches.head_manifests is not None:
            self._challenge_on(request, name)
            _fail(request, switches.head_manifests, "UNAUTHORIZED")
            return
        if switches.html:
            _say(request, 200, b"<html>Log in to the hotel's network</html>", "text/html")
            return
        if manifest is None:
            _fail(request, 404, "MANIFEST_UNKNOWN")
            return
        content = _corrupted(manifest.content) if switches.corrupt_manifests else manifest.content
        if not switches.no_digest:
            told = Digest.of(b"another") if switches.wrong_digest else manifest.digest
            request.setHeader("Docker-Content-Digest", str(told))
        kind = manifest.media_type if switches.content_type is None else switches.content_type
        if switches.stall_manifests and not head:
            request.setHeader("Content-Length", str(len(content)))
            _Body(self, request, memoryview(b""), "stall")
            return
        _say(request, 200, content, kind or None, length=not switches.chunked)

    def _blobs(self, request: Request, name: str, reference: str, _: Mapping[str, str]) -> None:
        switches = self.switches
        content = self.content.blobs.get(reference)
        if request.method == b"HEAD" and switches.head_blobs is not None:
            self._challenge_on(request, name)
            _fail(request, switches.head_blobs, "UNAUTHORIZED")
            return
        if content is None:
            _fail(request, 404, "BLOB_UNKNOWN")
            return
        content = _corrupted(content) if switches.corrupt_blobs else content
        size = len(content)
        start = 0 if switches.no_range else _range_start(request)
        if start is not None and start >= size > 0:
            request.setHeader("Content-Range", f"bytes */{size}")
            _fail(request, 416, "RANGE_INVALID")
            return
        if start and switches.wrong_range:
            start -= 1
        if start:
            request.setResponseCode(206)
            request.setHeader("Content-Range", f"bytes {start}-{size - 1}/{size}")
        if switches.gzip_label:
            request.setHeader("Content-Encoding", "gzip")
        request.setHeader("Content-Type", "application/octet-stream")
        body = memoryview(content)[start or 0 :]
        if not switches.chunked or (request.method == b"HEAD" and not switches.chunked_heads):
            request.setHeader("Content-Length", str(len(body) + switches.length_off))
        if request.method == b"HEAD":
            request.finish()
        else:
            self._send(request, body)

    def _send(self, request: Request, body: memoryview) -> None:
        switches = self.switches
        stop: int | None = None
        stalls = switches.stall_after is not None and switches.stall_times != 0
        if stalls:
            stop = switches.stall_after
            switches.stall_times = None if switches.stall_times is None else switches.stall_times - 1
        elif switches.break_after is not None and switches.break_times != 0:
            stop = switches.break_after
            switches.break_times = None if switches.break_times is None else switches.break_times - 1
        cut = body if stop is None or stop >= len(body) else body[:stop]
        whole = cut is body and not switches.length_off
        _Body(self, request, cut, "finish" if whole else "stall" if stalls else "break")

    def _tags(self, request: Request, name: str, _: str, arguments: Mapping[str, str]) -> None:
        if not self.content.holds(name):
            _fail(request, 404, "NAME_UNKNOWN")
            return
        tags = self._paged(request, self.content.tags(name), arguments, lambda tag: tag)
        _say(request, 200, json.dumps({"name": name, "tags": tags}).encode(), "application/json")

    def _referrers(self, request: Request, name: str, subject: str, arguments: Mapping[str, str]) -> None:
        if self.switches.no_referrers is not None:
            _fail(request, self.switches.no_referrers, "NOT_FOUND")
            return
        held = self.content.referrers.get((name, subject), [])
        page = self._paged(request, held, arguments, lambda entry: str(entry["digest"]))
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": page}
        _say(request, 200, json.dumps(index).encode(), OCI_INDEX)

    def _paged(self, request: Request, entries: list[Any], arguments: Mapping[str, str], key: Any) -> list[Any]:
        switches = self.switches
        if switches.ignore_pagination:
            return entries
        last = "" if switches.repeat_page else arguments.get("last", "")
        rest = [entry for entry in entries if key(entry) > last]
        size = min(int(arguments.get("n", "100000")), switches.page or 100000)
        page = rest[:size]
        if ((len(rest) > len(page) and page) or switches.repeat_page) and not switches.no_link:
            path = request.path.decode("ascii")
            query = f"?n={size}&last={key(page[-1])}" + (f"&again={len(self.requests)}" if switches.repeat_page else "")
            front = {"absolute": self.url + path, "foreign": "http://elsewhere.test" + path, "query": ""}
            request.setHeader("Link", f'<{front.get(switches.link, path)}{query}>; rel="next"')
        return page

    def _control(self, request: Request) -> bytes:
        """Change what a JSON object names, then tell all that can be known."""
        if request.method in (b"PUT", b"POST"):
            self._change(json.loads(request.content.read()))
        request.setHeader("Content-Type", "application/json")
        state = {
            "switches": attrs.asdict(self.switches),
            "counts": dict(self.counts),
            "requests": [attrs.asdict(asked) for asked in self.requests],
            "tokens": self.tokens,
            "most_active": self.most_active,
            "connections": self.connections,
        }
        return json.dumps(state).encode()

    def _change(self, change: Mapping[str, Any]) -> None:
        for name, value in change.get("switches", {}).items():
            assert name in attrs.fields_dict(Switches), f"there is no switch {name}"
            setattr(self.switches, name, value)
        for blob in change.get("blobs", ()):
            self.content.blob(base64.b64decode(blob))
        for given in change.get("manifests", ()):
            content = base64.b64decode(given["content"])
            manifest = Manifest(given["media_type"], Digest.of(content), content)
            self.content.manifest(given["name"], manifest, *given["tags"])
        for given in change.get("referrers", ()):
            self.content.referrers.setdefault((given["name"], given["subject"]), []).append(given["descriptor"])
        for forgotten in change.get("forget", ()):
            self.content.blobs.pop(forgotten, None)
            for held in [held for held in self.content.manifests if "@".join(held) == forgotten]:
                del self.content.manifests[held]
        if change.get("reset"):
            self.reset()


_RATE_LIMIT = ("RateLimit-Limit", "RateLimit-Remaining", "docker-ratelimit-source")


class _Body:
    """A blob's body, sent piece by piece, as fast as the client takes it or as slowly as ``drip`` says."""

    def __init__(self, hostile: Hostile, request: Request, body: memoryview, end: str) -> None:
        self._hostile = hostile
        self._request = request
        self._pieces = _pieces(body, hostile.switches.piece)
        self._end = end
        self._gone = False
        request.notifyFinish().addBoth(self._left)
        if hostile.switches.drip:
            self._drip()
        else:
            request.registerProducer(self, False)

    def resumeProducing(self) -> None:
        piece = next(self._pieces, None)
        if piece is not None:
            self._request.write(bytes(piece))
            return
        self._request.unregisterProducer()
        self._finish()

    def stopProducing(self) -> None:
        self._gone = True

    def _drip(self) -> None:
        piece = next(self._pieces, None)
        if self._gone:
            return
        if piece is None:
            self._finish()
            return
        self._request.write(bytes(piece))
        self._hostile.later(self._hostile.switches.drip, self._drip)

    def _finish(self) -> None:
        if self._end == "finish":
            self._request.finish()
        elif self._end == "break":
            if not self._request.startedWriting:
                self._request.write(b"")
            self._request.channel.loseConnection()
        elif not self._request.startedWriting:
            self._request.write(b"")

    def _left(self, _: object) -> None:
        self._gone = True


def _pieces(body: memoryview, size: int) -> Iterator[memoryview]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


class _Channel(HTTPChannel):
    def connectionMade(self) -> None:
        hostile = self.site.resource
        hostile.connections += 1
        hostile._channels.add(self)
        super().connectionMade()

    def connectionLost(self, reason: Any) -> None:
        self.site.resource._channels.discard(self)
        super().connectionLost(reason)


class _Site(Site):
    noisy = False

    def buildProtocol(self, addr: Any) -> Any:
        channel = _Channel()
        channel.requestFactory = self.requestFactory
        channel.site = self
        channel.factory = self
        channel.timeOut = 600
        return channel

    def log(self, request: Any) -> None:
        pass


def _corrupted(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1]) if content else content


def _range_start(request: Request) -> int | None:
    match = re.fullmatch(r"bytes=(\d+)-", request.getHeader("Range") or "")
    return int(match[1]) if match else None


def _say(request: Request, status: int, content: bytes, kind: str | None = "text/plain", length: bool = True) -> None:
    request.setResponseCode(status)
    if kind is None:
        request.defaultContentType = None
    else:
        request.setHeader("Content-Type", kind)
    if length:
        request.setHeader("Content-Length", str(len(content)))
    if request.method != b"HEAD":
        request.write(content)
    request.finish()


def _fail(request: Request, status: int, code: str) -> None:
    errors = {"errors": [{"code": code, "message": "as it is"}]}
    _say(request, status, json.dumps(errors).encode(), "application/json")


def _turn(reactor: Any) -> Deferred[None]:
    done: Deferred[None] = Deferred()
    reactor.callLater(0, done.callback, None)
    return done


def referrer_index(*descriptors: Mapping[str, Any]) -> Manifest:
    """The index that the tag schema keeps of a subject's referrers."""
    return manifest_of({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(descriptors)}, OCI_INDEX)


def encoded(blobs: Iterable[bytes]) -> list[str]:
    """Blobs as ``/_control`` takes them."""
    return [base64.b64encode(blob).decode("ascii") for blob in blobs]


def main() -> None:
    """Serve in a process of its own; ``--tls CERTIFICATE KEY`` with TLS."""
    import sys
    from pathlib import Path

    from twisted.internet import reactor

    hostile = Hostile(reactor)
    arguments = sys.argv[1:]
    tls = None
    if arguments[:1] == ["--tls"]:
        tls = Certificates(Path(), Path(arguments[1]), Path(arguments[2]))
    print(f"listening on {hostile.listen(tls)}", flush=True)
    reactor.run()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
