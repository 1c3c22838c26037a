"""What a configuration says before anything is known about its meaning: values, each with the place it came from."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

_SHOWN = 80
_NULL = frozenset({"", "~", "null", "Null", "NULL"})


def quoted(text: str) -> str:
    """A text of the operator's as messages show it: in quotes, and not longer than a line can hold."""
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "...")


def one_line(text: str) -> str:
    """A text with everything escaped that could break a line of the log."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


@attrs.frozen
class Origin:
    """Where a value was written: a line of a file, or an environment variable."""

    source: str
    line: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"

    def says(self, key: str, remark: str) -> str:
        """One line that tells the place, the dotted key, and what is to be remarked about it."""
        return one_line(": ".join(part for part in (str(self), key, remark) if part))


class ConfigError(Exception):
    """A configuration that cannot be used: one line that tells where, what is wrong and what would be right."""

    def __init__(self, origin: Origin, key: str, problem: str) -> None:
        super().__init__(origin.says(key, problem))
        self.origin = origin
        self.key = key


@attrs.frozen
class ScalarNode:
    """A single value as it was typed; ``plain``: it stood without quotes, so that its look decides its type."""

    origin: Origin
    text: str
    plain: bool = True

    @property
    def is_null(self) -> bool:
        return self.plain and self.text in _NULL


@attrs.frozen
class ListNode:
    """Values in a row."""

    origin: Origin
    items: tuple[Node, ...] = ()


@attrs.frozen
class MapNode:
    """Values by key, in the order they were written; the origin of each is its key's."""

    origin: Origin
    entries: Mapping[str, Node] = attrs.field(factory=dict)

    def with_entry(self, key: str, node: Node) -> MapNode:
        """The same, but for one key."""
        return attrs.evolve(self, entries={**self.entries, key: node})


Node = ScalarNode | ListNode | MapNode


def is_null(node: Node) -> bool:
    """Whether nothing is written at a place: ``key:``, ``key: ~`` or ``key: null``."""
    return isinstance(node, ScalarNode) and node.is_null


def plain_data(node: Node) -> object:
    """A value that has no known type, as JSON could say it."""
    if isinstance(node, ListNode):
        return [plain_data(item) for item in node.items]
    if isinstance(node, MapNode):
        return {key: plain_data(value) for key, value in node.entries.items()}
    return None if node.is_null else node.text
