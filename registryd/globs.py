"""Globs over repository names and tags: ``*`` and ``?`` stay within a component of a name, ``**`` does not."""

from __future__ import annotations

import re
from collections.abc import Sequence

import attrs

_WILDCARD = re.compile(r"\*\*|\*|\?")
_MEANING = {"**": ".*", "*": "[^/]*", "?": "[^/]"}


def _compiled(globs: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(_translated, globs)) or r"(?!)", re.DOTALL)


def _translated(glob: str) -> str:
    literals = map(re.escape, _WILDCARD.split(glob))
    wildcards = [_MEANING[wildcard] for wildcard in _WILDCARD.findall(glob)]
    return "".join(literal + wildcard for literal, wildcard in zip(literals, [*wildcards, ""], strict=True))


@attrs.frozen
class Globs:
    """What matches any of some globs; nothing matches none."""

    _pattern: re.Pattern[str] = attrs.field(converter=_compiled)

    def match(self, text: str) -> bool:
        """Whether a glob matches the whole of a text."""
        return self._pattern.fullmatch(text) is not None
