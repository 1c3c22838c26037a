"""One URL of an upstream: requests below its ``/v2/``, logged in, redirects followed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import quote, urlsplit

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse

from registryd.errors import RegistryError, UpstreamUnavailable
from registryd.reference import RepositoryName
from registryd.upstream.body import Fetch, discard, read_body
from registryd.upstream.challenge import choose, parse_challenges
from registryd.upstream.credentials import ICredentialSource
from registryd.upstream.flow import Course, Flow
from registryd.upstream.headers import every, first
from registryd.upstream.login import Authorization, Login
from registryd.upstream.origins import Origin
from registryd.upstream.pages import expect_errors
from registryd.upstream.redirects import MOST_REDIRECTS, leads_to, too_many
from registryd.upstream.verbatim import request

_log = Logger()

OK: Final = 200
UNAUTHORIZED: Final = 401
FORBIDDEN: Final = 403
GONE = frozenset({404, 410})
_REFUSED = frozenset({UNAUTHORIZED, FORBIDDEN})
_PAGES = frozenset({"text/html", "text/plain"})
_LONGEST_ERROR: Final = 64 * 1024
_AGENT_NAME: Final = b"registryd"


class Remote:
    """A registry behind one URL.

    The Authorization header goes to it alone, wherever redirects lead: a store beside it, at another port, has another
    login, and refuses who brings two.
    """

    def __init__(
        self,
        url: str,
        agent: IAgent,
        source: ICredentialSource,
        clock: IReactorTime,
        read_timeout: float,
    ) -> None:
        url = url if "://" in url else f"https://{url}"
        self.origin = Origin.of(url)
        self.flow = Flow(str(self.origin), clock)
        self._base = str(self.origin) + quote(urlsplit(url).path.rstrip("/"), safe="/%") + "/v2/"
        self._agent = agent
        self._clock = clock
        self._read_timeout = read_timeout
        self._login = Login(agent, self.origin, source, clock, read_timeout)

    async def ask(
        self,
        method: bytes,
        name: RepositoryName,
        path: str,
        headers: Mapping[str, str] | None = None,
        insist: bool = True,
    ) -> IResponse:
        """The answer to a request for a path of a repository; its body waits to be read, fetched or discarded.

        With ``insist`` a token that is refused is got anew, once, and a refused login is an error; else the 401 is the
        answer, for questions that some registries answer so to everybody.

        Errors:
            UpstreamUnavailable: as IUpstream.
        """
        scope, url = f"repository:{name}:pull", f"{self._base}{name}/{path}"
        used = await self._login.authorization(scope)
        response, asked = await self._follow(method, url, headers or {}, used)
        if not self.origin.is_also(asked):
            return response
        if response.code == FORBIDDEN and used is not None:
            return await self._ask_anew(response, method, url, headers or {}, used)
        if response.code != UNAUTHORIZED or (used is not None and not insist):
            return response
        challenges = parse_challenges(every(response.headers, b"WWW-Authenticate"))
        challenge = choose(challenges)
        if challenge is None and not insist:
            return response
        self.discard(response)
        used = await self._login.answer(challenge, scope, used)
        response, asked = await self._follow(method, url, headers or {}, used)
        if response.code == UNAUTHORIZED and self.origin.is_also(asked) and insist:
            self.discard(response)
            raise self._login.refuse(scope)
        return response

    async def _ask_anew(
        self, response: IResponse, method: bytes, url: str, headers: Mapping[str, str], used: Authorization
    ) -> IResponse:
        """The answer to who may have come with a password that has run out, as some registries tell by a 403."""
        try:
            other = await self._login.other(used)
        except UpstreamUnavailable:
            other = None
        if other is None:
            return response
        self.discard(response)
        return (await self._follow(method, url, headers, other))[0]

    async def read(self, response: IResponse, limit: int) -> bytes:
        """The whole body of an answer, of at most ``limit`` bytes.

        Errors:
            UpstreamUnavailable: as IUpstream.
        """
        return await read_body(response, limit, self._clock, self._read_timeout, self.flow.of_another())

    def discard(self, response: IResponse) -> None:
        """Give up the body of an answer."""
        discard(response, self._clock)

    def fetch(
        self, response: IResponse, start: int, size: int | None, ended: Callable[[], None], course: Course
    ) -> Fetch:
        """The body of an answer as a fetch."""
        return Fetch(response, self._clock, self._read_timeout, start, size, ended, course)

    def expect(self, response: IResponse, unknown: type[RegistryError], gone: frozenset[int] = GONE) -> None:
        """Give up an answer that is not what was asked for, and tell it.

        Errors:
            UpstreamUnavailable: it is nothing that was asked for.
            unknown: its status is among ``gone``.
        """
        if response.code == OK:
            return
        self.discard(response)
        # It says when to ask again where it mirrors a registry, and could not ask that now.
        if response.code in gone and not response.headers.hasHeader(b"Retry-After"):
            raise unknown()
        what = "refused the login" if response.code in _REFUSED else f"answered {response.code}"
        raise UpstreamUnavailable(f"{self.origin} {what}")

    async def expect_answer(self, response: IResponse, unknown: type[RegistryError]) -> None:
        """As ``expect``; and that something does not exist must not be said by what stands before a registry.

        Errors:
            as ``expect``.
        """
        if response.code in GONE:
            kind = first(response.headers, b"Content-Type").partition(";")[0].strip().lower()
            if kind in _PAGES and not response.headers.hasHeader(b"Docker-Distribution-Api-Version"):
                # Some registries label their errors so.
                expect_errors(await self.read(response, _LONGEST_ERROR))
                raise unknown()
        self.expect(response, unknown)

    async def _follow(
        self, method: bytes, url: str, headers: Mapping[str, str], authorization: Authorization | None
    ) -> tuple[IResponse, Origin]:
        """The first answer that is no redirect, and who gave it."""
        for _ in range(MOST_REDIRECTS + 1):
            origin = Origin.of(url)
            asked = self._headers(headers, authorization, origin)
            response = await request(self._agent, method, url.encode("ascii"), asked, self._clock)
            target = leads_to(response, url, self.origin, self._clock)
            if target is None:
                return response, origin
            url = target
        raise too_many(self.origin)

    def _headers(self, more: Mapping[str, str], authorization: Authorization | None, to: Origin) -> Headers:
        headers = Headers({name: [value] for name, value in more.items()})
        headers.setRawHeaders(b"User-Agent", [_AGENT_NAME])
        if authorization is not None and self.origin.is_also(to):
            headers.setRawHeaders(b"Authorization", [authorization.value])
        return headers
