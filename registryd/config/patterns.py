"""Regular expressions that are matched in time linear in the text.

The texts come from whoever pushes. With Python's ``re`` the example in Distribution's documentation,
``^https?://([^/]+\\.)*example\\.com/``, takes minutes for one URL of thirty short labels. Here all ways through a
pattern are followed side by side (Thompson's construction, remembered as an automaton).
"""

from __future__ import annotations

from typing import Protocol

import attrs

from registryd.config.gosyntax import Assertion, Characters, Choice, Repeat, Row, Tree, parse_pattern
from registryd.config.nodes import ScalarNode, quoted
from registryd.config.scalars import Invalid

_MAX_PROGRAM = 5000
_MAX_WORK = 50_000
_MAX_REMEMBERED = 500_000
_MATCHED = 0
_EDGE, _NEWLINE, _WORDLY, _OTHER = range(4)


@attrs.define
class _Program:
    """The automaton's steps: what each tests, and where it goes on. Step 0 is the end of a match."""

    tests: list[Characters | Assertion | None] = attrs.field(factory=lambda: [None])
    exits: list[tuple[int, ...]] = attrs.field(factory=lambda: [()])
    work: int = 0

    def add(self, tree: Tree, then: int) -> int:
        """The step at which a tree starts that goes on at another."""
        self.work += 1
        if self.work > _MAX_WORK:
            raise Invalid("is too large")
        if isinstance(tree, Row):
            for part in reversed(tree.parts):
                then = self.add(part, then)
            return then
        if isinstance(tree, Choice):
            return self._step(None, *(self.add(part, then) for part in tree.parts))
        if isinstance(tree, Repeat):
            return self._repeat(tree, then)
        return self._step(tree, then)

    def _repeat(self, tree: Repeat, then: int) -> int:
        start = then
        if tree.most is None:
            start = self._step(None)
            self.exits[start] = (self.add(tree.part, start), then)
        for _ in range((tree.most or 0) - tree.least):
            start = self._step(None, self.add(tree.part, start), then)
        for _ in range(tree.least):
            start = self.add(tree.part, start)
        return start

    def _step(self, test: Characters | Assertion | None, *exits: int) -> int:
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
            if step in reached or (isinstance(test, Assertion) and not _holds(test.kind, before, after)):
                continue
            reached.add(step)
            if not isinstance(test, Characters):
                waiting += self.exits[step]
        return reached

    def consume(self, steps: set[int], character: str) -> frozenset[int]:
        """The steps that a character leads on to."""
        onward: set[int] = set()
        for step in steps:
            test = self.tests[step]
            if isinstance(test, Characters) and test.match(character):
                onward.update(self.exits[step])
        return frozenset(onward)


def _holds(kind: str, before: int, after: int) -> bool:
    if kind in "A^":
        return before == _EDGE or (kind == "^" and before == _NEWLINE)
    if kind in "z$":
        return after == _EDGE or (kind == "$" and after == _NEWLINE)
    return ((before == _WORDLY) != (after == _WORDLY)) == (kind == "b")


def _kind(character: str) -> int:
    if character == "\n":
        return _NEWLINE
    return _WORDLY if character == "_" or (character.isascii() and character.isalnum()) else _OTHER


_State = tuple[frozenset[int], int]


class Pattern(Protocol):
    """The part of ``re.Pattern`` that judging a URL needs."""

    def search(self, text: str, /) -> object:
        """Something true where the pattern matches anywhere in a text."""


@attrs.define
class LinearPattern:
    """A compiled pattern; equal to another of the same text."""

    pattern: str
    _program: _Program = attrs.field(eq=False, repr=False)
    _start: int = attrs.field(eq=False, repr=False)
    _remembered: dict[tuple[_State, str], _State | None] = attrs.field(init=False, eq=False, repr=False, factory=dict)

    def search(self, text: str, /) -> bool:
        """Whether the pattern matches anywhere in a text."""
        state = (frozenset({self._start}), _EDGE)
        for character in text:
            key = (state, character)
            remembered = self._remembered
            after = remembered[key] if key in remembered else self._follow(state, character)
            if after is None:
                return True
            state = after
        return _MATCHED in self._program.reach(state[0], state[1], _EDGE)

    def _follow(self, state: _State, character: str) -> _State | None:
        """The state after a character, from now on remembered; None once there is a match."""
        steps, before = state
        kind = _kind(character)
        reached = self._program.reach(steps, before, kind)
        after = None if _MATCHED in reached else (self._program.consume(reached, character) | {self._start}, kind)
        if len(self._remembered) >= _MAX_REMEMBERED // len(self._program.tests):
            self._remembered = {}
        self._remembered[state, character] = after
        return after


def compile_pattern(text: str) -> LinearPattern:
    """A pattern of Go's, ready to search with.

    Errors:
        Invalid: it is none, or uses what is not supported.
    """
    program = _Program()
    return LinearPattern(text, program, program.add(parse_pattern(text), _MATCHED))


def pattern(node: ScalarNode) -> LinearPattern:
    """A value that is a pattern."""
    try:
        return compile_pattern(node.text)
    except Invalid as problem:
        raise Invalid(f"the pattern {quoted(node.text)} {problem}") from None
