"""An agent around another that knows patience: bounded waits, every failure an UpstreamUnavailable, no pestering."""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Final

import attrs
from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.error import ConnectError, ConnectingCancelledError, DNSLookupError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import ResponseFailed, ResponseNeverReceived
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from registryd.errors import UpstreamUnavailable
from registryd.upstream.availability import LONGEST_RETRY_AFTER, Availabilities, Availability
from registryd.upstream.body import discard
from registryd.upstream.headers import first
from registryd.upstream.origins import Origin

_log = Logger()

TOO_MANY_REQUESTS: Final = 429
NOT_IMPLEMENTED: Final = 501
MOST_ITEMS: Final = 1024
_CONTENT = ("/manifests/", "/blobs/")
_KINDS = (*_CONTENT, "/tags/", "/referrers/")
_SAY_WHEN = frozenset({TOO_MANY_REQUESTS, 503})


class Unreachable(UpstreamUnavailable):
    """It cannot be connected to, or does not answer in time: no item's fault."""


@implementer(IAgent)
class GuardedAgent:
    """Asks through another agent and leaves alone those that fail: who cannot be reached, or answers 429 or 5xx.

    A repository that answers 500 again and again is left alone by itself, as long as others do not as well.
    The answer's head has to come within ``timeout`` seconds. Every failure is an UpstreamUnavailable, whose text says
    nothing of a URL beyond its origin. 501 is an answer like any other. ``saw`` is told the headers of every answer.
    """

    def __init__(
        self,
        agent: IAgent,
        clock: IReactorTime,
        timeout: float,
        saw: Callable[[Origin, Headers], None],
    ) -> None:
        self._agent = agent
        self._clock = clock
        self._timeout = timeout
        self._saw = saw
        self._origins = Availabilities(clock)
        self._items = Availabilities(clock, MOST_ITEMS)

    def is_failing(self, origin: Origin) -> bool:
        """Whether an origin is left alone, but for a probe."""
        return self._origins.of(str(origin)).failing

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        return Deferred.fromCoroutine(self._request(method, uri, headers, bodyProducer))

    async def _request(
        self, method: bytes, uri: bytes, headers: Headers | None, body: IBodyProducer | None
    ) -> IResponse:
        url = uri.decode("ascii")
        origin = Origin.of(url)
        asking = _Asking.begin(self._origins.of(str(origin)), self._items, _item(url))
        try:
            asked = maybeDeferred(self._agent.request, method, uri, headers, body)
            response = await self._patiently(origin, asked)
        except UpstreamUnavailable as error:
            asking.failed(str(error), certain=isinstance(error, Unreachable))
            raise
        finally:
            asking.undecided()
        self._saw(origin, response.headers)
        if response.code != TOO_MANY_REQUESTS and (response.code < 500 or response.code == NOT_IMPLEMENTED):
            asking.succeeded()
            return response
        discard(response, self._clock)
        wait = retry_after(response.headers) if response.code in _SAY_WHEN else None
        reason = f"{origin} answered {response.code}"
        asking.failed(reason, wait, certain=response.code == TOO_MANY_REQUESTS or wait is not None)
        raise UpstreamUnavailable(reason, retry_after=wait)

    def _patiently(self, origin: Origin, request: Deferred[IResponse]) -> Deferred[IResponse]:
        """An answer, or an UpstreamUnavailable in time."""

        def late(_result: IResponse | Failure, timeout: float) -> Failure:
            return Failure(Unreachable(f"{origin} did not answer within {timeout:g} s"))

        def failed(failure: Failure) -> Failure:
            if failure.check(UpstreamUnavailable):
                return failure
            if _is_cancelled(failure):
                return Failure(CancelledError())
            unreachable = failure.check(ConnectError, DNSLookupError) is not None
            return Failure((Unreachable if unreachable else UpstreamUnavailable)(f"{origin}: {said(failure)}"))

        request.addTimeout(self._timeout, self._clock, late)
        request.addErrback(failed)
        return request


@attrs.frozen
class _Asking:
    """A request that an origin, and the item there that it is for, both admit; they hear how it goes."""

    _origin: Availability
    _item: Availability
    _name: str
    _origin_ticket: int
    _item_ticket: int

    @classmethod
    def begin(cls, origin: Availability, items: Availabilities, name: str) -> _Asking:
        """Ask both.

        Errors:
            UpstreamUnavailable: one of them is left alone.
        """
        origin.check()
        item = items.of(name)
        item_ticket = item.admit()
        return cls(origin, item, name, origin.admit(), item_ticket)

    def succeeded(self) -> None:
        self._origin.succeeded(self._origin_ticket)
        self._item.succeeded(self._item_ticket)

    def failed(self, reason: str, retry_after: float | None = None, certain: bool = True) -> None:
        self._origin.failed(self._origin_ticket, reason, retry_after, certain, self._name)
        if not certain:
            self._item.failed(self._item_ticket, reason, certain=False)

    def undecided(self) -> None:
        self._origin.undecided(self._origin_ticket)
        self._item.undecided(self._item_ticket)


def _item(url: str) -> str:
    """What a URL is for, as failures are told apart: a repository, a kind of its lists, or what else has a path."""
    whole = url.partition("?")[0]
    place, kind = max((whole.rfind(kind), kind) for kind in _KINDS)
    if place < 0:
        return whole
    return whole[:place] if kind in _CONTENT else whole[:place] + kind


def retry_after(headers: Headers) -> float | None:
    """The seconds for which an answer asks to be left alone, as far as that is believed.

    It is a number, or a date, which is taken against the answer's own.
    """
    text = first(headers, b"Retry-After")
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), LONGEST_RETRY_AFTER)
    until = _date(text)
    if until is None:
        return None
    now = _date(first(headers, b"Date"))
    return min(max(until - (time.time() if now is None else now), 0.0), LONGEST_RETRY_AFTER)


def _date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None


def said(failure: Failure) -> str:
    """What a failure of an agent says, without the URL that was asked for."""
    if failure.check(ResponseNeverReceived, ResponseFailed):
        reasons = failure.value.reasons  # type: ignore[union-attr]
        return "; ".join(dict.fromkeys(said(reason) for reason in reasons)) or "broke off"
    if failure.check(SSL.Error):
        details = next(iter(getattr(failure.value, "args", ())), "")
        if isinstance(details, list):
            return "TLS: " + ("; ".join(str(detail[-1]) for detail in details) or "closed")
    if failure.check(DNSLookupError):
        return "its name is not known"
    if failure.check(ConnectError):
        return failure.getErrorMessage() or "cannot be reached"
    if failure.check(ValueError, TypeError):
        return "nonsense"  # Texts of these repeat what was asked or answered.
    kind = failure.type.__name__ if failure.type is not None else "failure"
    return f"{kind}: {failure.getErrorMessage()}"[:300]


def _is_cancelled(failure: Failure) -> bool:
    if failure.check(CancelledError, ConnectingCancelledError):
        return True
    return any(_is_cancelled(reason) for reason in getattr(failure.value, "reasons", ()) if isinstance(reason, Failure))
