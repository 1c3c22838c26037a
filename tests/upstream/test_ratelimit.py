"""What an upstream says of how much it leaves us."""

from __future__ import annotations

from registryd.interfaces import UpstreamState
from registryd.upstream import RateLimit
from tests.upstream.case import LATEST, NAME, UpstreamCase


class RateLimits(UpstreamCase):
    def setUp(self) -> None:
        super().setUp()
        self.hostile.content.image(NAME, LATEST)
        self.seen: list[RateLimit] = []
        self.registry = self.upstream(on_rate_limit=self.seen.append)

    async def leave(self, remaining: int) -> None:
        self.hostile.switches.ratelimit = ("100;w=21600", f"{remaining};w=21600", "192.0.2.7")
        await self.registry.resolve_manifest(NAME, LATEST)

    async def test_told(self) -> None:
        self.assertIsNone(self.registry.rate_limit)
        self.assertEqual(self.registry.state(), UpstreamState(available=True))
        await self.leave(76)
        self.assertEqual(self.registry.rate_limit, RateLimit(100, 76, 21600, "192.0.2.7"))
        self.assertEqual(self.registry.state(), UpstreamState(True, 100, 76))
        self.assertEqual(self.seen, [self.registry.rate_limit])

    async def test_without_headers_the_last_stays(self) -> None:
        await self.leave(76)
        self.hostile.switches.ratelimit = ()
        await self.registry.resolve_manifest(NAME, LATEST)
        self.assertEqual(self.registry.rate_limit, RateLimit(100, 76, 21600, "192.0.2.7"))

    async def test_logged_when_it_says_something_new(self) -> None:
        for remaining, lines in ((76, 1), (75, 1), (70, 1), (66, 2), (60, 2), (10, 3), (9, 4), (8, 4), (99, 5)):
            await self.leave(remaining)
            self.assertEqual(len(self.said("requests in 21600 s")), lines, remaining)

    async def test_nonsense(self) -> None:
        self.hostile.switches.ratelimit = ("many", "few", "x")
        await self.registry.resolve_manifest(NAME, LATEST)
        self.assertIsNone(self.registry.rate_limit)

    async def test_told_by_429_too(self) -> None:
        self.hostile.switches.ratelimit = ("100;w=21600", "0;w=21600", "x")
        self.hostile.switches.status = 429
        await self.unavailable(self.registry.resolve_manifest(NAME, LATEST))
        self.assertEqual(self.registry.state(), UpstreamState(False, 100, 0))
