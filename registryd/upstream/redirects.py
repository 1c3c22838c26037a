"""Where answers lead, and where they may."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, urljoin

from twisted.internet.interfaces import IReactorTime
from twisted.web.iweb import IResponse

from registryd.errors import UpstreamUnavailable
from registryd.upstream.body import discard
from registryd.upstream.headers import first
from registryd.upstream.origins import Origin

MOST_REDIRECTS: Final = 10

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_KEPT = "".join(map(chr, range(0x21, 0x7F)))


def leads_to(response: IResponse, url: str, asked: Origin, clock: IReactorTime) -> str | None:
    """The URL that the answer from another leads to, whose body is given up; None where it is no redirect.

    Errors:
        UpstreamUnavailable: it leads nowhere; or away from TLS, which ``asked``, who was asked at first, has.
    """
    location = first(response.headers, b"Location")
    if response.code not in _REDIRECTS or not location:
        return None
    discard(response, clock)
    try:
        target = quote(urljoin(url, location).partition("#")[0], safe=_KEPT, encoding="latin-1")
        origin = Origin.of(target)
    except ValueError as error:
        raise UpstreamUnavailable(f"{Origin.of(url)} redirects to {error}") from None
    if not asked.may_lead_to(origin):
        raise UpstreamUnavailable(f"{Origin.of(url)} redirects to {origin}, without TLS")
    return target


def too_many(asked: Origin) -> UpstreamUnavailable:
    """The error of an origin whose redirects have no end."""
    return UpstreamUnavailable(f"{asked} redirects more than {MOST_REDIRECTS} times")
