"""Another registry, reached over HTTP: one upstream of the mirror."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, Final, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.web.http_headers import Headers
from zope.interface import implementer

from registryd.config.values import Upstream
from registryd.errors import BlobUnknown, ManifestUnknown, NameUnknown, RegistryError, UpstreamUnavailable
from registryd.interfaces import IFetch, IUpstream, Referrer, UpstreamState
from registryd.model import Descriptor, Manifest
from registryd.reference import Digest, Reference, RepositoryName
from registryd.upstream.agent import DiallingAgent, Patience, https_policy
from registryd.upstream.blobs import Blobs
from registryd.upstream.credentials import Configured, Credentials, Helped, ICredentialSource
from registryd.upstream.guard import GuardedAgent
from registryd.upstream.lists import Lists
from registryd.upstream.manifests import Manifests
from registryd.upstream.origins import Origin
from registryd.upstream.ratelimit import RateLimit, RateLimits
from registryd.upstream.remote import Remote
from registryd.upstream.senders import Senders
from registryd.upstream.slots import Slots

_T = TypeVar("_T")
_PATIENCE: Final = Patience()


@attrs.frozen
class _Url:
    """What one URL is asked for; ``number`` is its place among the URLs."""

    number: int
    remote: Remote
    manifests: Manifests
    blobs: Blobs
    lists: Lists


@implementer(IUpstream)
class UpstreamRegistry:
    """An upstream by its configuration; ``name`` is what logs call it.

    Its URLs are asked in their order, and the next one where one fails, or does not hold what is asked for; one that
    failed a blob before is asked for that one after the others. Nothing is dialled before the first request.
    ``on_rate_limit`` is told whenever the upstream says how much it leaves us.

    Errors of the constructor:
        AuthorityError: ``settings.ca`` cannot be used.
        ValueError: a URL is none of http or https.
    """

    def __init__(
        self,
        settings: Upstream,
        name: str,
        reactor: Any,
        manifest_limit: int,
        *,
        patience: Patience = _PATIENCE,
        clock: IReactorTime | None = None,
        environment: Mapping[str, str] = os.environ,
        on_rate_limit: Callable[[RateLimit], None] | None = None,
    ) -> None:
        clock = reactor if clock is None else clock
        slots = Slots(settings.max_requests)
        self._limits = RateLimits(name, on_rate_limit)
        policy = https_policy(settings.ca)
        self._dialling = DiallingAgent(reactor, policy, settings.max_requests, patience.connect, environment)
        self._agent = GuardedAgent(self._dialling, clock, patience.response, self._saw)
        source = _credentials(settings, reactor, environment, clock)
        self._urls: list[_Url] = []
        for number, url in enumerate(settings.urls):
            remote = Remote(url, self._agent, source, clock, patience.read)
            manifests = Manifests(remote, slots, manifest_limit, clock)
            self._urls.append(_Url(number, remote, manifests, Blobs(remote, slots), Lists(remote, slots, manifests)))
        self._senders = Senders(len(self._urls), clock)

    def state(self) -> UpstreamState:
        """Whether any of its URLs may be asked now, and how much it leaves us."""
        limit = self._limits.latest
        available = any(
            not self._agent.is_failing(url.remote.origin) and not url.remote.flow.is_failing for url in self._urls
        )
        if limit is None:
            return UpstreamState(available)
        return UpstreamState(available, limit.limit, limit.remaining)

    @property
    def rate_limit(self) -> RateLimit | None:
        """What the upstream said last of how much it leaves us."""
        return self._limits.latest

    def close(self) -> Deferred[None]:
        """Close all connections; what is under way on them fails."""
        return Deferred.fromCoroutine(self._dialling.close())

    def resolve_manifest(self, name: RepositoryName, reference: Reference) -> Deferred[Descriptor]:
        return self._first(lambda url: url.manifests.resolve(name, reference))

    def get_manifest(self, name: RepositoryName, reference: Reference) -> Deferred[Manifest]:
        return self._first(lambda url: url.manifests.get(name, reference))

    def resolve_blob(self, name: RepositoryName, digest: Digest) -> Deferred[Descriptor]:
        return self._first(lambda url: url.blobs.resolve(name, digest), digest)

    def fetch_blob(self, name: RepositoryName, digest: Digest, start: int) -> Deferred[IFetch]:
        async def fetch(url: _Url) -> IFetch:
            fetched = await url.blobs.fetch(name, digest, start)
            fetched.sender = url.number
            return fetched

        return self._first(fetch, digest)

    def blob_failed(self, digest: Digest, sender: int) -> None:
        self._senders.failed(digest, sender)

    def blob_was_wrong(self, digest: Digest, senders: Collection[int | None]) -> None:
        self._senders.were_wrong(digest, senders)

    def tags(self, name: RepositoryName) -> Deferred[Sequence[str]]:
        return self._first(lambda url: url.lists.tags(name))

    def referrers(self, name: RepositoryName, subject: Digest) -> Deferred[Sequence[Referrer]]:
        return self._first(lambda url: url.lists.referrers(name, subject))

    def _saw(self, origin: Origin, headers: Headers) -> None:
        # Token services and stores have limits of their own.
        if any(url.remote.origin == origin for url in self._urls):
            self._limits.saw(headers)

    def _first(
        self, ask: Callable[[_Url], Coroutine[Deferred[Any], Any, _T]], blob: Digest | None = None
    ) -> Deferred[_T]:
        """The answer of the first URL that has one, in the order for a blob where it is about one.

        That something does not exist is believed only if all say so.
        """
        urls = self._urls if blob is None else [self._urls[sender] for sender in self._senders.in_order(blob)]

        async def ask_all() -> _T:
            errors: list[RegistryError] = []
            for url in urls:
                try:
                    url.remote.flow.check()
                    return await ask(url)
                except (UpstreamUnavailable, ManifestUnknown, BlobUnknown, NameUnknown) as error:
                    errors.append(error)
            raise next((error for error in errors if isinstance(error, UpstreamUnavailable)), errors[-1])

        return Deferred.fromCoroutine(ask_all())


def _credentials(
    settings: Upstream, reactor: Any, environment: Mapping[str, str], clock: IReactorTime
) -> ICredentialSource:
    if settings.helper is not None:
        return Helped(settings.helper, reactor, environment, clock)
    return Configured(Credentials(settings.username, settings.password) if settings.username else None)
