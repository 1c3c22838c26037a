"""Regular expressions as Go writes them, to trees.

Source: https://github.com/google/re2/wiki/Syntax; Unicode classes (``\\p``) are left out.
"""

from __future__ import annotations

import re

import attrs

from registryd.config.scalars import Invalid

_MAX_REPEAT = 1000
_MAX_GROUPS = 50
_LAST = 0x10FFFF

Ranges = tuple[tuple[int, int], ...]

_DIGIT: Ranges = ((0x30, 0x39),)
_SPACE: Ranges = ((0x09, 0x0A), (0x0C, 0x0D), (0x20, 0x20))
_UPPER: Ranges = ((0x41, 0x5A),)
_LOWER: Ranges = ((0x61, 0x7A),)
_WORD: Ranges = (*_DIGIT, *_UPPER, (0x5F, 0x5F), *_LOWER)
_CLASSES = {"d": _DIGIT, "s": _SPACE, "w": _WORD}
_POSIX: dict[str, Ranges] = {
    "alnum": (*_DIGIT, *_UPPER, *_LOWER),
    "alpha": (*_UPPER, *_LOWER),
    "ascii": ((0, 0x7F),),
    "blank": ((0x09, 0x09), (0x20, 0x20)),
    "cntrl": ((0, 0x1F), (0x7F, 0x7F)),
    "digit": _DIGIT,
    "graph": ((0x21, 0x7E),),
    "lower": _LOWER,
    "print": ((0x20, 0x7E),),
    "punct": ((0x21, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0x7E)),
    "space": ((0x09, 0x0D), (0x20, 0x20)),
    "upper": _UPPER,
    "word": _WORD,
    "xdigit": (*_DIGIT, (0x41, 0x46), (0x61, 0x66)),
}
_ESCAPES = {"a": 7, "f": 12, "t": 9, "n": 10, "r": 13, "v": 11}
_HEX = re.compile(r"x(?:([0-9A-Fa-f]{2})|\{([0-9A-Fa-f]{1,6})\})")
_OCTAL = re.compile(r"0[0-7]{0,2}|[1-7][0-7]{1,2}")
_REPEAT = re.compile(r"\{([0-9]{1,4})(?:(,)([0-9]{1,4})?)?\}")
_OPENING = re.compile(r"\?(?:P?<[A-Za-z_]\w*>|([imsU]*)(?:-([imsU]+))?([:)]))", re.ASCII)
_POSIX_CLASS = re.compile(r"\[:(\^?)([a-z]+):\]")


@attrs.frozen
class Characters:
    """Consumes one character."""

    ranges: Ranges
    negated: bool = False
    fold: bool = False

    def match(self, character: str) -> bool:
        forms = {character, character.lower(), character.upper()} if self.fold else {character}
        codes = [ord(form) for form in forms if len(form) == 1]
        return any(low <= code <= high for code in codes for low, high in self.ranges) != self.negated


@attrs.frozen
class Assertion:
    """Consumes nothing: ``kind`` is one of ``^ $ A z b B``, the first two at the ends of lines."""

    kind: str


@attrs.frozen
class Row:
    parts: tuple[Tree, ...]


@attrs.frozen
class Choice:
    parts: tuple[Tree, ...]


@attrs.frozen
class Repeat:
    part: Tree
    least: int
    most: int | None


Tree = Characters | Assertion | Row | Choice | Repeat


@attrs.define
class _Parser:
    """Reads a pattern by descent; every method leaves ``at`` behind what it read."""

    text: str
    at: int = 0
    depth: int = 0
    flags: frozenset[str] = frozenset()

    def whole(self) -> Tree:
        tree = self._choice()
        if self.at < len(self.text):
            raise Invalid("has a ) without its (")
        return tree

    def _take(self, expected: str) -> bool:
        found = self.text.startswith(expected, self.at)
        self.at += len(expected) * found
        return found

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return match

    def _next(self) -> str:
        if self.at >= len(self.text):
            raise Invalid("ends too early")
        self.at += 1
        return self.text[self.at - 1]

    def _choice(self) -> Tree:
        parts = [self._sequence()]
        while self._take("|"):
            parts.append(self._sequence())
        return parts[0] if len(parts) == 1 else Choice(tuple(parts))

    def _sequence(self) -> Tree:
        parts: list[Tree] = []
        while self.at < len(self.text) and self.text[self.at] not in "|)":
            quoted = self._quoted() if self._take("\\Q") else [self._atom()]
            parts += [*quoted[:-1], *(self._repeated(last) for last in quoted[-1:])]
        return Row(tuple(parts))

    def _quoted(self) -> list[Tree]:
        literal, end, _ = self.text[self.at :].partition("\\E")
        self.at += len(literal) + len(end)
        return [self._literal(ord(character)) for character in literal]

    def _repeated(self, atom: Tree) -> Tree:
        bounds = self._bounds()
        if bounds is None:
            return atom
        least, most = bounds
        if max(least, most or 0) > _MAX_REPEAT or (most is not None and most < least):
            raise Invalid(f"repeats out of bounds: at most {_MAX_REPEAT} times")
        self._take("?")
        if self._bounds() is not None:
            raise Invalid("repeats a repetition: put it in (?: )")
        return Repeat(atom, least, most)

    def _bounds(self) -> tuple[int, int | None] | None:
        for sign, least, most in (("*", 0, None), ("+", 1, None), ("?", 0, 1)):
            if self._take(sign):
                return least, most
        if match := self._match(_REPEAT):
            return int(match[1]), int(match[3]) if match[3] else None if match[2] else int(match[1])
        return None

    def _atom(self) -> Tree:
        character = self._next()
        if character == "(":
            return self._group()
        if character == "[":
            return self._class()
        if character == "\\":
            return self._escape()
        if character == ".":
            return Characters(((0, _LAST),)) if "s" in self.flags else Characters(((10, 10),), negated=True)
        if character in "^$":
            return Assertion(character if "m" in self.flags else {"^": "A", "$": "z"}[character])
        self.at -= 1
        self._repeats_nothing()
        return self._literal(ord(self._next()))

    def _repeats_nothing(self) -> None:
        if self._bounds() is not None:
            raise Invalid("has a repetition with nothing to repeat")

    def _literal(self, code: int) -> Characters:
        return Characters(((code, code),), fold="i" in self.flags)

    def _group(self) -> Tree:
        outer = self.flags
        if self.text.startswith("?", self.at):
            match = self._match(_OPENING)
            if match is None:
                raise Invalid("has a group (? that is not supported, such as a look-ahead")
            self.flags = (self.flags | set(match[1] or "")) - set(match[2] or "")
            if match[3] == ")":
                self._repeats_nothing()
                return Row(())
        self.depth += 1
        if self.depth > _MAX_GROUPS:
            raise Invalid("has groups nested too deep")
        tree = self._choice()
        if not self._take(")"):
            raise Invalid("has a ( without its )")
        self.depth -= 1
        self.flags = outer
        return tree

    def _escape(self) -> Tree:
        if self.text[self.at : self.at + 1] in tuple("AzbB"):
            return Assertion(self._next())
        ranges = self._class_escape()
        return Characters(ranges) if ranges is not None else self._literal(self._code())

    def _class_escape(self) -> Ranges | None:
        letter = self.text[self.at : self.at + 1]
        ranges = _CLASSES.get(letter.lower())
        if ranges is None:
            return None
        self.at += 1
        return ranges if letter.islower() else _complement(ranges)

    def _code(self) -> int:
        if match := self._match(_HEX):
            code = int(match[1] or match[2], 16)
            if code > _LAST:
                raise Invalid("names a character beyond Unicode")
            return code
        if match := self._match(_OCTAL):
            return int(match[0], 8)
        letter = self._next()
        if letter.isalnum() and letter not in _ESCAPES:
            raise Invalid(f"has \\{letter}, which is not supported")
        return _ESCAPES.get(letter, ord(letter))

    def _class(self) -> Tree:
        negated = self._take("^")
        ranges: list[tuple[int, int]] = []
        while not ranges or not self._take("]"):
            ranges += self._class_item()
        return Characters(tuple(ranges), negated, fold="i" in self.flags)

    def _class_item(self) -> Ranges:
        if match := self._match(_POSIX_CLASS):
            if match[2] not in _POSIX:
                raise Invalid(f"has the class [:{match[2]}:], which is not known")
            return _complement(_POSIX[match[2]]) if match[1] else _POSIX[match[2]]
        escaped = self._take("\\")
        if escaped and (ranges := self._class_escape()) is not None:
            return ranges
        low = self._class_code(escaped)
        if not self.text.startswith("-", self.at) or self.text[self.at + 1 : self.at + 2] in ("]", ""):
            return ((low, low),)
        self.at += 1
        high = self._class_code(self._take("\\"))
        if high < low:
            raise Invalid("has a range of characters that ends before it starts")
        return ((low, high),)

    def _class_code(self, escaped: bool) -> int:
        return self._code() if escaped else ord(self._next())


def _complement(ranges: Ranges) -> Ranges:
    gaps, start = [], 0
    for low, high in sorted(ranges):
        if low > start:
            gaps.append((start, low - 1))
        start = high + 1
    return (*gaps, (start, _LAST)) if start <= _LAST else tuple(gaps)


def parse_pattern(text: str) -> Tree:
    """What a pattern consists of.

    Errors:
        Invalid: it is no pattern, or uses what is not supported.
    """
    return _Parser(text).whole()
