"""The kinds of value that a key can have, and the reading of nodes by them: types checked, unknown keys remarked on."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import attrs

from registryd.config.nodes import ConfigError, ListNode, MapNode, Node, Origin, ScalarNode, is_null, plain_data, quoted
from registryd.config.scalars import Invalid, bare_nanoseconds

T = TypeVar("T")
_MAX_REMARKS = 100
_COMPARED = 64


@attrs.frozen
class Leaf:
    """A single value. ``wants`` tells in an error what was expected; ``doubt`` remarks on a value that is allowed."""

    wants: str
    parse: Callable[[ScalarNode], object]
    doubt: Callable[[ScalarNode], str | None] = lambda node: None


@attrs.frozen
class Anything:
    """A value that only its later reader understands."""


@attrs.frozen
class ListOf:
    """Values of one kind in a row; ``single`` lets one value stand for a list of one."""

    item: Kind
    single: bool = False


@attrs.frozen
class MapOf:
    """Values of one kind by names that the operator chooses."""

    value: Kind


@attrs.frozen(eq=False)
class Section:
    """Known keys.

    ``variables`` are the parts of environment variables that differ from the key in capitals: Distribution uses its Go
    field's name. A section asks for something only when one of its ``on`` keys is set (any key, if it names none) and
    its ``off`` key is not; with ``bare`` its presence is enough. An ``open`` one takes further keys without a remark,
    for its reader to judge, and a word alone stands for a mapping of that one key (``auth: none``).
    """

    keys: Mapping[str, Kind]
    variables: Mapping[str, str] = attrs.field(factory=dict)
    on: tuple[str, ...] = ()
    off: str | None = None
    bare: bool = False
    open: bool = False

    def variable(self, key: str) -> str:
        """The part of an environment variable's name that stands for a key."""
        return self.variables.get(key, key.upper())


Kind = Leaf | Anything | ListOf | MapOf | Section


def as_section(section: Section, node: Node) -> Node:
    """The mapping that a word alone stands for, where it does."""
    if section.open and isinstance(node, ScalarNode) and not node.is_null:
        return MapNode(node.origin, {node.text: ScalarNode(node.origin, "")})
    return node


@attrs.frozen
class Values:
    """A section as it was read: the values of the keys that were set."""

    key: str
    origin: Origin
    present: Mapping[str, object] = attrs.field(factory=dict)
    origins: Mapping[str, Origin] = attrs.field(factory=dict)
    unknown: tuple[str, ...] = ()

    def get(self, key: str, type: type[T], default: T) -> T:
        """A single value, or its default."""
        value = self.present.get(key, default)
        assert isinstance(value, type)
        return value

    def text(self, key: str, default: str = "") -> str:
        """A text; an empty one is as good as none."""
        return self.get(key, str, "") or default

    def optional(self, key: str, type: type[T]) -> T | None:
        """A single value, or None."""
        value = self.present.get(key)
        assert value is None or isinstance(value, type)
        return value

    def section(self, key: str) -> Values:
        """A section below this one, empty if it was not written."""
        return self.get(key, Values, Values(self.dotted(key), self.origin))

    def sections(self, key: str) -> tuple[Values, ...]:
        """A list of sections."""
        return tuple(item for item in self.get(key, tuple, ()) if isinstance(item, Values))

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts."""
        return tuple(item for item in self.get(key, tuple, ()) if isinstance(item, str))

    def mapping(self, key: str) -> Mapping[str, object]:
        """Values by name."""
        return self.get(key, dict, {})

    def dotted(self, key: str) -> str:
        """A key's whole name."""
        return f"{self.key}.{key}" if self.key else key

    def at(self, key: str) -> Origin:
        """Where a key was written, or the section that lacks it."""
        return self.origins.get(key, self.origin)

    def error(self, key: str, problem: str) -> ConfigError:
        """What is wrong with a key."""
        return ConfigError(self.at(key), self.dotted(key), problem)


@attrs.define
class Reading:
    """Reads nodes by their kinds, and collects what is to be remarked on but is no error.

    ``elsewhere`` tells for the last part of a key that exists once in the whole schema which key that is.
    """

    elsewhere: Mapping[str, str]
    remarks: list[str] = attrs.field(factory=list)

    def value(self, kind: Kind, node: Node, key: str) -> object:
        """What a node says.

        Errors:
            ConfigError: it is not of that kind.
        """
        if isinstance(kind, Section):
            return self.section(kind, node, key)
        if isinstance(kind, ListOf):
            return self._items(kind, node, key)
        if isinstance(kind, MapOf):
            return {name: self.value(kind.value, item, f"{key}.{name}") for name, item in _entries(node, key)}
        if isinstance(kind, Anything):
            return plain_data(node)
        return self._leaf(kind, node, key)

    def section(self, section: Section, node: Node, key: str) -> Values:
        """What a node says as a section. A key without a value is as good as absent, but for a section's presence."""
        present: dict[str, object] = {}
        origins: dict[str, Origin] = {}
        unknown = []
        for name, item in _entries(as_section(section, node), key):
            kind = section.keys.get(name)
            if kind is None and not section.open:
                self._remark_unknown(section, item.origin, key, name)
            elif kind is None:
                unknown.append(name)
                origins[name] = item.origin
            elif isinstance(kind, Section) or not is_null(item):
                present[name] = self.value(kind, item, f"{key}.{name}" if key else name)
                origins[name] = item.origin
        return Values(key, node.origin, present, origins, tuple(unknown))

    def remark(self, line: str) -> None:
        """Keep a remark, unless there are so many that nobody reads them."""
        if len(self.remarks) < _MAX_REMARKS:
            self.remarks.append(line)
        elif len(self.remarks) == _MAX_REMARKS:
            self.remarks.append("further warnings about the configuration are left out")

    def _items(self, kind: ListOf, node: Node, key: str) -> tuple[object, ...]:
        if is_null(node):
            return ()
        if kind.single and not isinstance(node, ListNode):
            return (self.value(kind.item, node, key),)
        if not isinstance(node, ListNode):
            raise ConfigError(node.origin, key, f"needs a list{_example(node)}")
        return tuple(self.value(kind.item, item, f"{key}.{place}") for place, item in enumerate(node.items))

    def _leaf(self, leaf: Leaf, node: Node, key: str) -> object:
        if not isinstance(node, ScalarNode):
            found = "a list" if isinstance(node, ListNode) else "a mapping"
            raise ConfigError(node.origin, key, f"needs {leaf.wants}, not {found}")
        text = ScalarNode(node.origin, "", plain=False) if node.is_null else node
        try:
            value = leaf.parse(text)
        except Invalid as problem:
            raise ConfigError(node.origin, key, str(problem)) from None
        if doubt := leaf.doubt(node):
            self.remark(node.origin.says(key, doubt))
        return value

    def _remark_unknown(self, section: Section, origin: Origin, key: str, name: str) -> None:
        prefix = f"{key}." if key else ""
        close = closest(name, section.keys)
        meant = self.elsewhere.get(name) or (prefix + close if close else None)
        hint = f" (did you mean {meant}?)" if meant else ""
        self.remark(origin.says(prefix + name[:_COMPARED], f"unknown key, ignored{hint}"))


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that a mistyped one most likely was meant to be."""
    lower = {name.lower(): name for name in known}
    matches = difflib.get_close_matches(word[:_COMPARED].lower(), lower, n=1)
    return lower[matches[0]] if matches else None


def nanoseconds_doubt(node: ScalarNode) -> str | None:
    """A remark on a duration whose unit was forgotten."""
    if not bare_nanoseconds(node):
        return None
    return f"{quoted(node.text)} without a unit means nanoseconds: write {node.text}s if seconds are meant"


def _entries(node: Node, key: str) -> list[tuple[str, Node]]:
    if is_null(node):
        return []
    if not isinstance(node, MapNode):
        found = "a list" if isinstance(node, ListNode) else "a single value"
        raise ConfigError(node.origin, key, f"needs a mapping of keys to values, not {found}")
    return list(node.entries.items())


def _example(node: Node) -> str:
    return f": write [{quoted(node.text)}]" if isinstance(node, ScalarNode) else ", not a mapping"
