"""WWW-Authenticate as registries write it."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from registryd.upstream.challenge import Challenge, choose, parse_challenges

ROWS = [
    ('Basic realm="x"', [("basic", {"realm": "x"})]),
    ("Basic", [("basic", {})]),
    ("Negotiate, Basic realm=x", [("negotiate", {}), ("basic", {"realm": "x"})]),
    (
        'Bearer realm="https://a/token",service="s",scope="repository:a/b:pull,push"',
        [("bearer", {"realm": "https://a/token", "service": "s", "scope": "repository:a/b:pull,push"})],
    ),
    (
        'bearer REALM = "https://a" , Service="a \\"quoted\\" one", Basic realm="r", charset="UTF-8"',
        [
            ("bearer", {"realm": "https://a", "service": 'a "quoted" one'}),
            ("basic", {"realm": "r", "charset": "UTF-8"}),
        ],
    ),
    ('Bearer realm="unfinished', [("bearer", {"realm": ""})]),
    ("", []),
    ("=,;", []),
    ('Bearer realm="a",,error="invalid_token"', [("bearer", {"realm": "a", "error": "invalid_token"})]),
]


class Challenges(SynchronousTestCase):
    def test_rows(self) -> None:
        for value, expected in ROWS:
            self.assertEqual(
                list(parse_challenges([value])), [Challenge(scheme, found) for scheme, found in expected], value
            )

    def test_several_headers(self) -> None:
        found = parse_challenges(['Basic realm="r"', 'Bearer realm="https://a"'])
        self.assertEqual([challenge.scheme for challenge in found], ["basic", "bearer"])
        chosen = choose(found)
        self.assertEqual(chosen and chosen.scheme, "bearer")
        self.assertIsNone(choose(parse_challenges(["Negotiate"])))

    def test_a_token_that_nobody_is_told_to_give_out(self) -> None:
        for realm in ("", ' realm="/token"', ' realm=""'):
            chosen = choose(parse_challenges([f"Bearer{realm}", 'Basic realm="r"']))
            self.assertEqual(chosen and chosen.scheme, "basic")
        self.assertEqual(choose(parse_challenges(["Bearer"])), Challenge("bearer", {}))

    def test_long_nonsense_costs_little(self) -> None:
        parse_challenges(['Bearer realm="' + "\\" * 1_000_000, "a " * 1_000_000, 'x="' * 500_000])
