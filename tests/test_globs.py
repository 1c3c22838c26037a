"""Globs over names."""

from __future__ import annotations

import pytest

from registryd.globs import Globs


@pytest.mark.parametrize(
    ("glob", "matched", "other"),
    [
        ("team/**", ["team/a", "team/a/b"], ["team", "teams/a", "x/team/a"]),
        ("base/*", ["base/a"], ["base", "base/a/b", "base"]),
        ("**/app", ["x/app", "x/y/app"], ["app", "x/apps"]),
        ("v?", ["v1", "vx"], ["v", "v12", "v/"]),
        ("1.2*", ["1.2", "1.2.3"], ["1x2", "11.2"]),
        ("**", ["a", "a/b"], []),
    ],
)
def test_a_glob_matches_whole_names(glob: str, matched: list[str], other: list[str]) -> None:
    globs = Globs([glob])
    assert [name for name in [*matched, *other] if globs.match(name)] == matched


def test_any_of_several_globs_will_do() -> None:
    globs = Globs(["a/*", "b"])
    assert [name for name in ("a/x", "b", "a", "c") if globs.match(name)] == ["a/x", "b"]


def test_no_globs_match_nothing() -> None:
    assert not Globs([]).match("") and not Globs([]).match("a")
