"""Bearer tokens for an upstream: got from its token service, kept until they expire.

Source: Distribution, "Token Authentication Specification", "OAuth2 Token Authentication".
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime
from typing import Any, cast

import attrs
from treq.client import HTTPClient
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse

from registryd.errors import UpstreamUnavailable
from registryd.upstream.body import DawdledError, discard, read_body
from registryd.upstream.challenge import Challenge
from registryd.upstream.credentials import Credentials, ICredentialSource
from registryd.upstream.origins import Origin, below_origin
from registryd.upstream.redirects import MOST_REDIRECTS, leads_to, too_many
from registryd.upstream.sharing import Shared
from registryd.upstream.verbatim import STAND_IN, PlacedAgent

_log = Logger()

CLIENT = "registryd"
DEFAULT_LIFETIME = 60.0
LONGEST_LIFETIME = 24 * 60 * 60.0
"""Seconds after which a token is got anew, however long its service says that it lives."""

MARGIN = 10.0
"""Seconds before its end from which a token is not used any more; a quarter of its life at most."""

_MOST_TOKENS = 4096
_LONGEST_ANSWER = 256 * 1024


class LoginRefused(UpstreamUnavailable):
    """A token service does not accept who asks, or does not give what is asked for."""


@attrs.frozen
class _Kept:
    value: bytes = attrs.field(repr=False)
    until: float


class Tokens:
    """The tokens for one upstream, by scope; of several who need the same, one asks and all wait."""

    def __init__(
        self, agent: IAgent, origin: Origin, source: ICredentialSource, clock: IReactorTime, read_timeout: float
    ) -> None:
        self._agent = agent
        self._origin = origin
        self._source = source
        self._clock = clock
        self._read_timeout = read_timeout
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._shared: Shared[bytes] = Shared()
        self._refreshed: dict[str, str] = {}
        self._warned: set[str] = set()

    async def get(self, challenge: Challenge, scope: str) -> bytes:
        """A token for a scope, as an Authorization header carries it.

        Errors:
            UpstreamUnavailable: the token service does not give one.
        """
        key = _key(challenge, scope)
        kept = self._kept.get(key)
        if kept is not None and self._clock.seconds() < kept.until:
            self._kept.move_to_end(key)
            return kept.value
        return await self._shared.result(key, lambda: self._ask(challenge, scope, key))

    def forget(self, challenge: Challenge, scope: str, token: bytes) -> None:
        """Do not use a token again, if it is still the one that is kept."""
        kept = self._kept.get(_key(challenge, scope))
        if kept is not None and kept.value == token:
            del self._kept[_key(challenge, scope)]

    async def _ask(self, challenge: Challenge, scope: str, key: str) -> bytes:
        realm = self._realm(challenge)
        credentials = await self._credentials_for(realm)
        if credentials is not None and credentials.is_identity:
            document = await self._post(challenge, scope, credentials)
        else:
            document = await self._get(challenge, scope, credentials)
        token = document.get("token") or document.get("access_token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise UpstreamUnavailable(f"the token service at {realm} gave no token")
        value = b"Bearer " + token.encode("ascii")
        self._keep(key, _Kept(value, self._clock.seconds() + lifetime(document, self._clock.seconds())))
        return value

    def _realm(self, challenge: Challenge) -> Origin:
        try:
            realm = Origin.of(challenge.realm)
        except ValueError as error:
            raise UpstreamUnavailable(f"{self._origin} names a token service that is {error}") from None
        if not self._origin.may_lead_to(realm):
            raise UpstreamUnavailable(f"{self._origin} names a token service without TLS: {realm}")
        return realm

    async def _credentials_for(self, realm: Origin) -> Credentials | None:
        if self._origin.trusts(realm):
            return await self._source.get(self._origin.server)
        if str(realm) not in self._warned:
            self._warned.add(str(realm))
            _log.warn(
                "{origin} names a token service of others, {realm}: it is asked without credentials",
                origin=self._origin,
                realm=realm,
            )
        return None

    async def _get(self, challenge: Challenge, scope: str, credentials: Credentials | None) -> Mapping[str, Any]:
        parameters = [("service", challenge.service)] if challenge.service else []
        parameters += [("scope", part) for part in scope.split()]
        parameters.append(("client_id", CLIENT))
        headers = Headers()
        if credentials is not None:
            parameters.append(("account", credentials.username))
            headers.setRawHeaders(b"Authorization", [credentials.basic])
        return await self._request("GET", challenge, headers, params=parameters)

    async def _post(self, challenge: Challenge, scope: str, credentials: Credentials) -> Mapping[str, Any]:
        # A service may give a new identity token in place of the one that was used.
        form = {
            "grant_type": "refresh_token",
            "refresh_token": self._refreshed.get(credentials.secret, credentials.secret),
            "service": challenge.service,
            "client_id": CLIENT,
            "scope": scope,
        }
        document = await self._request("POST", challenge, Headers(), data=form)
        refreshed = document.get("refresh_token")
        if isinstance(refreshed, str) and refreshed:
            self._refreshed = {credentials.secret: refreshed}
        return document

    async def _request(self, method: str, challenge: Challenge, headers: Headers, **content: Any) -> Mapping[str, Any]:
        realm, url = Origin.of(challenge.realm), challenge.realm
        headers.setRawHeaders(b"Accept", [b"application/json"])
        headers.setRawHeaders(b"User-Agent", [CLIENT.encode("ascii")])
        for _ in range(MOST_REDIRECTS + 1):
            response = await self._answer(method, url, headers, content)
            # A form may hold what is for its service alone.
            target = leads_to(response, url, realm, self._clock) if method == "GET" else None
            if target is None:
                return await self._document(response, realm)
            # The query is a part of where it leads.
            url, content = target, {}
            if not realm.is_also(Origin.of(url)):
                headers.removeHeader(b"Authorization")
        raise too_many(realm)

    async def _answer(self, method: str, url: str, headers: Headers, content: Mapping[str, Any]) -> IResponse:
        # A client for each request: cookies of one are nothing to another.
        client = HTTPClient(PlacedAgent(self._agent, Origin.of(url)))
        try:
            request = client.request(
                method,
                STAND_IN + below_origin(url),
                headers=headers,
                allow_redirects=False,
                unbuffered=True,
                reactor=cast(Any, self._clock),
                **content,
            )
        except ValueError:
            raise UpstreamUnavailable(f"{self._origin} names a token service by a malformed URL") from None
        return cast(IResponse, await request)

    async def _document(self, response: IResponse, realm: Origin) -> Mapping[str, Any]:
        """What a token service says."""
        if response.code != 200:
            discard(response, self._clock)
            if response.code in (400, 401, 403):
                self._source.refused()
                self._refreshed.clear()
                raise LoginRefused(f"the token service at {realm} refused the login: {response.code}")
            raise UpstreamUnavailable(f"the token service at {realm} answered {response.code}")
        try:
            content = await read_body(response, _LONGEST_ANSWER, self._clock, self._read_timeout)
        except DawdledError as error:
            # Not asked again at once: each who waits for it would wait as long.
            raise LoginRefused(f"the token service at {realm} does not say all: {error}") from None
        try:
            document = json.loads(content)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise UpstreamUnavailable(f"the token service at {realm} answered nonsense")
        return document

    def _keep(self, key: str, kept: _Kept) -> None:
        self._kept[key] = kept
        self._kept.move_to_end(key)
        while len(self._kept) > _MOST_TOKENS:
            self._kept.popitem(last=False)


def lifetime(document: Mapping[str, Any], now: float) -> float:
    """The seconds for which a token may be used from ``now`` on, by what its service says of it.

    Where ``issued_at`` says that it has ended already, the clocks differ, and it counts for nothing.
    """
    told = document.get("expires_in")
    seconds = DEFAULT_LIFETIME
    if isinstance(told, int | float) and not isinstance(told, bool) and told > 0:
        seconds = float(min(told, LONGEST_LIFETIME))
    age = now - _time(document.get("issued_at"), now)
    if 0 < age < seconds:
        seconds -= age
    return seconds - min(MARGIN, seconds / 4)


def _time(text: object, default: float) -> float:
    """Seconds since the epoch of an RFC 3339 time, whose fractions may have nine digits."""
    if not isinstance(text, str):
        return default
    whole, point, rest = text.strip().replace("Z", "+00:00").partition(".")
    if point:
        fraction = len(rest) - len(rest.lstrip("0123456789"))
        rest = rest[fraction:]
    try:
        time = datetime.fromisoformat(whole + rest)
    except ValueError:
        return default
    return time.timestamp() if time.tzinfo is not None else default


def _key(challenge: Challenge, scope: str) -> str:
    return "\n".join((challenge.realm, challenge.service, scope))
