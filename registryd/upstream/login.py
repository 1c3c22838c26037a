"""The login to one URL of an upstream: what its challenges ask for, and when not to ask again."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.web.iweb import IAgent

from registryd.errors import UpstreamUnavailable
from registryd.upstream.challenge import Challenge
from registryd.upstream.credentials import ICredentialSource
from registryd.upstream.origins import Origin
from registryd.upstream.tokens import LoginRefused, Tokens

REFUSAL = 60.0
"""Seconds for which a login that was refused for a scope is not tried again."""

_MOST_SCOPES = 4096
_V = TypeVar("_V")


@attrs.frozen
class Authorization:
    """The value of an Authorization header, and what it was got for."""

    value: bytes = attrs.field(repr=False)
    challenge: Challenge
    told_scope: str


class Login:
    """What requests to one URL authorize themselves with, by scope.

    The last challenge is remembered, so that the next scope needs no 401 first.
    """

    def __init__(
        self, agent: IAgent, origin: Origin, source: ICredentialSource, clock: IReactorTime, read_timeout: float
    ) -> None:
        self._origin = origin
        self._source = source
        self._clock = clock
        self._tokens = Tokens(agent, origin, source, clock, read_timeout)
        self._challenge: Challenge | None = None
        self._told_scopes: OrderedDict[str, str] = OrderedDict()
        self._refused: OrderedDict[str, tuple[float, str]] = OrderedDict()
        self._changed_after = 0.0

    async def authorization(self, scope: str) -> Authorization | None:
        """What a request for a scope is sent with at first; None where nothing is known to be asked for.

        Errors:
            UpstreamUnavailable: the login was refused lately, or cannot be had now.
        """
        until, reason = self._refused.get(scope, (0.0, ""))
        if self._clock.seconds() < until:
            raise UpstreamUnavailable(reason)
        if self._challenge is None:
            return None
        return await self._get(self._challenge, self._told_scopes.get(scope, scope), scope)

    async def answer(self, challenge: Challenge | None, scope: str, used: Authorization | None) -> Authorization:
        """What to send after a 401: another than was ``used``.

        Errors:
            UpstreamUnavailable: it refuses the login.
        """
        if challenge is None:
            raise UpstreamUnavailable(f"{self._origin} asks for a login of a kind that is not known here")
        if used is not None:
            self._forget(used)
        told_scope = challenge.scope or scope
        if told_scope != scope:
            _remember(self._told_scopes, scope, told_scope)
        authorization = await self._get(challenge, told_scope, scope)
        if used is not None and authorization.value == used.value:
            raise self.refuse(scope)
        self._challenge = challenge
        return authorization

    async def other(self, used: Authorization) -> Authorization | None:
        """A password in place of one that was of no use, if the source of passwords has another by now.

        It is asked once in a while: a 403 may as well mean that nobody may have something.

        Errors:
            UpstreamUnavailable: the source cannot be asked.
        """
        if used.challenge.scheme != "basic" or self._clock.seconds() < self._changed_after:
            return None
        self._changed_after = self._clock.seconds() + REFUSAL
        credentials = await self._source.renewed(self._origin.server)
        if credentials is None or credentials.basic == used.value:
            return None
        return Authorization(credentials.basic, used.challenge, used.told_scope)

    def refuse(self, scope: str) -> UpstreamUnavailable:
        """The error of a login that is refused for good; it is not tried again for a while."""
        reason = f"{self._origin} refused the login for {scope}"
        _remember(self._refused, scope, (self._clock.seconds() + REFUSAL, reason))
        return UpstreamUnavailable(reason)

    def _forget(self, used: Authorization) -> None:
        if used.challenge.scheme == "bearer":
            self._tokens.forget(used.challenge, used.told_scope, used.value)
        else:
            self._source.refused()

    async def _get(self, challenge: Challenge, told_scope: str, scope: str) -> Authorization:
        if challenge.scheme == "bearer":
            return Authorization(await self._token(challenge, told_scope, scope), challenge, told_scope)
        credentials = await self._source.get(self._origin.server)
        if credentials is None:
            raise UpstreamUnavailable(f"{self._origin} asks for a login, and none is configured")
        return Authorization(credentials.basic, challenge, told_scope)

    async def _token(self, challenge: Challenge, told_scope: str, scope: str) -> bytes:
        try:
            return await self._tokens.get(challenge, told_scope)
        except LoginRefused as error:
            _remember(self._refused, scope, (self._clock.seconds() + REFUSAL, str(error)))
            raise


def _remember(memory: OrderedDict[str, _V], key: str, value: _V) -> None:
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > _MOST_SCOPES:
        memory.popitem(last=False)
