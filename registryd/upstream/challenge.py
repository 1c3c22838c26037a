"""WWW-Authenticate: what a registry asks for before it answers.

Source: RFC 9110, section 11.6.1; Distribution, "Token Authentication Specification".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import attrs

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SCHEME = re.compile(rf"[\s,]*({_TOKEN})(?:[ \t]+(?!=)|[ \t]*(?=,|$))")
_PARAMETER = re.compile(rf'[\s,]*({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))')
_ESCAPED = re.compile(r"\\(.)")
_LONGEST = 8 * 1024


@attrs.frozen
class Challenge:
    """One way to log in; ``scheme`` and the parameters' names are in lower case."""

    scheme: str
    parameters: Mapping[str, str]

    @property
    def realm(self) -> str:
        return self.parameters.get("realm", "")

    @property
    def service(self) -> str:
        return self.parameters.get("service", "")

    @property
    def scope(self) -> str:
        return self.parameters.get("scope", "")


def parse_challenges(values: Sequence[str]) -> Sequence[Challenge]:
    """The challenges of an answer's WWW-Authenticate headers, in their order; what is malformed ends its header."""
    return [challenge for value in values for challenge in _parse(value[:_LONGEST])]


def choose(challenges: Sequence[Challenge]) -> Challenge | None:
    """The challenge to answer: a token says less of who asks than a password, where it is told who gives it out."""
    told = [challenge for challenge in challenges if challenge.scheme != "bearer" or "://" in challenge.realm]
    for scheme in ("bearer", "basic"):
        for challenge in told or challenges:
            if challenge.scheme == scheme:
                return challenge
    return None


def _parse(value: str) -> Iterator[Challenge]:
    position = 0
    while (scheme := _SCHEME.match(value, position)) is not None:
        position = scheme.end()
        parameters: dict[str, str] = {}
        while (parameter := _PARAMETER.match(value, position)) is not None:
            position = parameter.end()
            quoted = parameter[2]
            parameters[parameter[1].lower()] = parameter[3] if quoted is None else _ESCAPED.sub(r"\1", quoted)
        yield Challenge(scheme[1].lower(), parameters)
