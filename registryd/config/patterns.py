"""Regular expressions as Go has them, matched in time linear in the text.

The texts come from whoever pushes: with Python's ``re`` the pattern that Distribution's documentation gives as its example,
``^https?://([^/]+\\.)*example\\.com/``, takes minutes for one URL of thirty short labels. Here states are followed side by side
(Thompson's construction, remembered as an automaton), so that no text takes longer than another of its length.
Source: https://github.com/google/re2/wiki/Syntax; Unicode classes (``\\p``) are left out.
"""

from __future__ import annotations

import re
from typing import Protocol, Union

import attrs

from registryd.config.scalars import Invalid

_MAX_REPEAT = 1000
_MAX_PROGRAM = 5000
_MAX_WORK = 50_000
_MAX_GROUPS = 50
_MAX_REMEMBERED = 10_000
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


class Pattern(Protocol):
    """The part of ``re.Pattern`` that judging a URL needs."""

    def search(self, text: str, /) -> object:
        """Something true where the pattern matches anywhere in a text."""


@attrs.frozen
class _Characters:
    """Consumes one character."""

    ranges: Ranges
    negated: bool = False
    fold: bool = False

    def match(self, character: str) -> bool:
        forms = {character, character.lower(), character.upper()} if self.fold else {character}
        codes = [ord(form) for form in forms if len(form) == 1]
        return any(low <= code <= high for code in codes for low, high in self.ranges) != self.negated


@attrs.frozen
class _Assertion:
    """Consumes nothing: ``kind`` is one of ``^ $ A z b B``, the first two at the ends of lines."""

    kind: str


@attrs.frozen
class _Sequence:
    parts: tuple[_Tree, ...]


@attrs.frozen
class _Choice:
    parts: tuple[_Tree, ...]


@attrs.frozen
class _Repeat:
    part: _Tree
    least: int
    most: int | None


_Tree = Union[_Characters, _Assertion, _Sequence, _Choice, _Repeat]


@attrs.define
class _Parser:
    """Reads a pattern by descent; every method leaves ``at`` behind what it read."""

    text: str
    at: int = 0
    depth: int = 0
    flags: frozenset[str] = frozenset()

    def whole(self) -> _Tree:
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

    def _choice(self) -> _Tree:
        parts = [self._sequence()]
        while self._take("|"):
            parts.append(self._sequence())
        return parts[0] if len(parts) == 1 else _Choice(tuple(parts))

    def _sequence(self) -> _Tree:
        parts: list[_Tree] = []
        while self.at < len(self.text) and self.text[self.at] not in "|)":
            if self._take("\\Q"):
                literal, _, _ = self.text[self.at :].partition("\\E")
                self.at = min(self.at + len(literal) + 2, len(self.text))
                parts += [self._literal(ord(character)) for character in literal]
            else:
                parts.append(self._repeated(self._atom()))
        return _Sequence(tuple(parts))

    def _repeated(self, atom: _Tree) -> _Tree:
        bounds = self._bounds()
        if bounds is None:
            return atom
        least, most = bounds
        if max(least, most or 0) > _MAX_REPEAT or (most is not None and most < least):
            raise Invalid(f"repeats out of bounds: at most {_MAX_REPEAT} times")
        self._take("?")
        if self._bounds() is not None:
            raise Invalid("repeats a repetition: put it in (?: )")
        return _Repeat(atom, least, most)

    def _bounds(self) -> tuple[int, int | None] | None:
        for sign, least, most in (("*", 0, None), ("+", 1, None), ("?", 0, 1)):
            if self._take(sign):
                return least, most
        if match := self._match(_REPEAT):
            return int(match[1]), int(match[3]) if match[3] else None if match[2] else int(match[1])
        return None

    def _atom(self) -> _Tree:
        character = self._next()
        if character == "(":
            return self._group()
        if character == "[":
            return self._class()
        if character == "\\":
            return self._escape()
        if character == ".":
            return _Characters(((0, _LAST),)) if "s" in self.flags else _Characters(((10, 10),), negated=True)
        if character in "^$":
            return _Assertion(character if "m" in self.flags else {"^": "A", "$": "z"}[character])
        if character in "*+?":
            raise Invalid(f"has a {character} with nothing to repeat")
        return self._literal(ord(character))

    def _literal(self, code: int) -> _Characters:
        return _Characters(((code, code),), fold="i" in self.flags)

    def _group(self) -> _Tree:
        outer = self.flags
        if self.text.startswith("?", self.at):
            match = self._match(_OPENING)
            if match is None:
                raise Invalid("has a group (? that is not supported, such as a look-ahead")
            self.flags = (self.flags | set(match[1] or "")) - set(match[2] or "")
            if match[3] == ")":
                return _Sequence(())
        self.depth += 1
        if self.depth > _MAX_GROUPS:
            raise Invalid("has groups nested too deep")
        tree = self._choice()
        if not self._take(")"):
            raise Invalid("has a ( without its )")
        self.depth -= 1
        self.flags = outer
        return tree

    def _escape(self) -> _Tree:
        if self.text[self.at : self.at + 1] in tuple("AzbB"):
            return _Assertion(self._next())
        ranges = self._class_escape()
        return _Characters(ranges) if ranges is not None else self._literal(self._code())

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

    def _class(self) -> _Tree:
        negated = self._take("^")
        ranges: list[tuple[int, int]] = []
        while not ranges or not self._take("]"):
            ranges += self._class_item()
        return _Characters(tuple(ranges), negated, fold="i" in self.flags)

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


_MATCHED = 0
_EDGE, _NEWLINE, _WORDLY, _OTHER = range(4)


@attrs.define
class _Program:
    """The automaton's steps: what each tests, and where it goes on. Step 0 is the end of a match."""

    tests: list[_Characters | _Assertion | None] = attrs.field(factory=lambda: [None])
    exits: list[tuple[int, ...]] = attrs.field(factory=lambda: [()])
    work: int = 0

    def add(self, tree: _Tree, then: int) -> int:
        """The step at which a tree starts that goes on at another."""
        self.work += 1
        if self.work > _MAX_WORK:
            raise Invalid("is too large")
        if isinstance(tree, _Sequence):
            for part in reversed(tree.parts):
                then = self.add(part, then)
            return then
        if isinstance(tree, _Choice):
            return self._step(None, *(self.add(part, then) for part in tree.parts))
        if isinstance(tree, _Repeat):
            return self._repeat(tree, then)
        return self._step(tree, then)

    def _repeat(self, tree: _Repeat, then: int) -> int:
        start = then
        if tree.most is None:
            start = self._step(None)
            self.exits[start] = (self.add(tree.part, start), then)
        for _ in range((tree.most or 0) - tree.least):
            start = self._step(None, self.add(tree.part, start), then)
        for _ in range(tree.least):
            start = self.add(tree.part, start)
        return start

    def _step(self, test: _Characters | _Assertion | None, *exits: int) -> int:
        if len(self.tests) > _MAX_PROGRAM:
            raise Invalid("is too large")
        self.tests.append(test)
        self.exits.append(exits)
        return len(self.tests) - 1

    def reach(self, steps: frozenset[int], before: int, after: int) -> set[int]:
        """The steps that can be reached without consuming anything, between two kinds of character."""
        reached: set[int] = set()
        waiting = list(steps)
        while waiting:
            step = waiting.pop()
            test = self.tests[step]
            if step in reached or isinstance(test, _Assertion) and not _holds(test.kind, before, after):
                continue
            reached.add(step)
            if not isinstance(test, _Characters):
                waiting += self.exits[step]
        return reached


def _holds(kind: str, before: int, after: int) -> bool:
    if kind in "A^":
        return before == _EDGE or kind == "^" and before == _NEWLINE
    if kind in "z$":
        return after == _EDGE or kind == "$" and after == _NEWLINE
    return ((before == _WORDLY) != (after == _WORDLY)) == (kind == "b")


def _kind(character: str) -> int:
    if character == "\n":
        return _NEWLINE
    return _WORDLY if character == "_" or character.isascii() and character.isalnum() else _OTHER


_State = tuple[frozenset[int], int]


@attrs.define
class LinearPattern:
    """A compiled pattern; equal to another of the same text."""

    pattern: str
    _program: _Program = attrs.field(eq=False, repr=False)
    _start: int = attrs.field(eq=False, repr=False)
    _remembered: dict[tuple[_State, str], _State | None] = attrs.field(init=False, eq=False, repr=False, factory=dict)

    def search(self, text: str, /) -> bool:
        """Whether the pattern matches anywhere in a text."""
        state: _State | None = (frozenset({self._start}), _EDGE)
        for character in text:
            assert state is not None
            key = (state, character)
            if key not in self._remembered:
                self._remember(key)
            state = self._remembered[key]
            if state is None:
                return True
        assert state is not None
        return _MATCHED in self._program.reach(state[0], state[1], _EDGE)

    def _remember(self, key: tuple[_State, str]) -> None:
        """The state after a character; None once there is a match."""
        (steps, before), character = key
        after = _kind(character)
        reached = self._program.reach(steps, before, after)
        if len(self._remembered) >= _MAX_REMEMBERED:
            self._remembered.clear()
        if _MATCHED in reached:
            self._remembered[key] = None
            return
        tests = ((step, self._program.tests[step]) for step in reached)
        moved = {exit for step, test in tests if isinstance(test, _Characters) and test.match(character) for exit in self._program.exits[step]}
        self._remembered[key] = (frozenset({self._start, *moved}), after)


def compile_pattern(text: str) -> LinearPattern:
    """A pattern of Go's, ready to search with.

    Errors:
        Invalid: it is none, or uses what is not supported.
    """
    program = _Program()
    return LinearPattern(text, program, program.add(_Parser(text).whole(), _MATCHED))


def pattern(node: ScalarNode) -> LinearPattern:
    """A value that is a pattern."""
    try:
        return compile_pattern(node.text)
    except Invalid as problem:
        raise Invalid(f"the pattern {quoted(node.text)} {problem}") from None
