"""YAML text to nodes, each with its line; whatever the text, the outcome is nodes or one ConfigError.

Bounded against hostile text: nesting, the number of values that aliases expand to, a key written twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs
import yaml

from registryd.config.nodes import ConfigError, ListNode, MapNode, Node, Origin, ScalarNode, quoted

MAX_BYTES = 1 << 20
"""The largest configuration file that is read."""
_MAX_DEPTH = 64
_MAX_VALUES = 10_000
_YAML = "tag:yaml.org,2002:"
_TYPED_BY_LOOK = frozenset({_YAML + "null", _YAML + "bool", _YAML + "int", _YAML + "float"})
_UNTAGGED = frozenset({_YAML + "str", _YAML + "seq", _YAML + "map", "!"})

Locate = Callable[[int], Origin]
"""The origin that a line of the text has."""


def read_file(path: str) -> str:
    """The text of a configuration file.

    Errors:
        ConfigError: it cannot be read, is too large, or is not UTF-8.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(Origin(path), "", f"cannot be read: {reason}") from None
    if len(content) > MAX_BYTES:
        raise ConfigError(Origin(path), "", f"is larger than the {MAX_BYTES} bytes that a configuration may have")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(Origin(path, line), "", "not UTF-8 text") from None


def parse(text: str, locate: Locate) -> tuple[Node, bool]:
    """The first document of a YAML text, and whether another follows it (which Distribution does not read either).

    Errors:
        ConfigError: it is not YAML, or beyond the bounds above.
    """
    try:
        root, more = _compose(text, locate)
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_marked(error, locate), "", f"not valid YAML: {_problem(error)}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(locate(line), "", f"not valid YAML: {error.reason}") from None
    except (yaml.YAMLError, ValueError, OverflowError):
        # PyYAML lets an escape beyond Unicode and an endless %YAML version through as these.
        raise ConfigError(locate(1), "", "not valid YAML: an escape or a version is out of range") from None
    if root is None:
        return ScalarNode(locate(1), ""), more
    expansion = _Expansion(locate)
    return expansion.node(root, expansion.at(root), 0), more


def _compose(text: str, locate: Locate) -> tuple[yaml.Node | None, bool]:
    _check_depth(text, locate)
    loader = yaml.BaseLoader(text)
    if not loader.check_node():
        return None, False
    return loader.get_node(), loader.check_node()


def _check_depth(text: str, locate: Locate) -> None:
    """Composing recurses, reading events does not: so the depth is known before it can hurt."""
    depth = 0
    for event in yaml.parse(text, yaml.BaseLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _MAX_DEPTH:
                raise _too_deep(locate(_line(event.start_mark)))
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.DocumentEndEvent):
            return


def _too_deep(origin: Origin) -> ConfigError:
    return ConfigError(origin, "", f"nested deeper than {_MAX_DEPTH} levels")


def _marked(error: yaml.MarkedYAMLError, locate: Locate) -> Origin:
    return locate(_line(error.problem_mark or error.context_mark))


def _line(mark: object) -> int:
    """The line that a mark is in, counted from 1."""
    return getattr(mark, "line", 0) + 1


def _problem(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or "no reason known"
    start = error.context_mark
    if error.context is None or start is None or error.problem is None:
        return problem
    return f"{problem} ({error.context} that starts in line {start.line + 1})"


@attrs.define
class _Expansion:
    """Copies composed nodes into ours, an alias each time anew: what that may cost is counted."""

    locate: Locate
    values: int = 0

    def node(self, node: yaml.Node, origin: Origin, depth: int) -> Node:
        self.values += 1
        if self.values > _MAX_VALUES:
            raise ConfigError(origin, "", f"more than {_MAX_VALUES} values, aliases counted each time they stand")
        if depth > _MAX_DEPTH:
            raise _too_deep(origin)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, origin)
        if node.tag not in _UNTAGGED:
            raise _unknown_tag(node, origin)
        if isinstance(node, yaml.SequenceNode):
            items = (self.node(item, self.at(item), depth + 1) for item in node.value)
            return ListNode(origin, tuple(items))
        return self._mapping(node, origin, depth)

    def at(self, node: yaml.Node) -> Origin:
        return self.locate(_line(node.start_mark))

    def _scalar(self, node: yaml.ScalarNode, origin: Origin) -> ScalarNode:
        if node.tag in _TYPED_BY_LOOK:
            return ScalarNode(origin, "" if node.tag == _YAML + "null" else node.value, plain=True)
        if node.tag not in _UNTAGGED:
            raise _unknown_tag(node, origin)
        return ScalarNode(origin, node.value, plain=not node.style)

    def _mapping(self, node: yaml.Node, origin: Origin, depth: int) -> MapNode:
        merged: dict[str, Node] = {}
        entries: dict[str, Node] = {}
        for key_node, value_node in node.value:
            at = self.at(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(at, "", "a key must be a single word")
            if key_node.value == "<<" and not key_node.style:
                for key, value in self._merges(value_node, at, depth):
                    merged.setdefault(key, value)
                continue
            if key_node.value in entries:
                first = entries[key_node.value].origin
                raise ConfigError(at, "", f"the key {quoted(key_node.value)} is written twice: first at {first}")
            entries[key_node.value] = self.node(value_node, at, depth + 1)
        return MapNode(origin, {**{k: v for k, v in merged.items() if k not in entries}, **entries})

    def _merges(self, node: yaml.Node, origin: Origin, depth: int) -> Iterator[tuple[str, Node]]:
        value = self.node(node, origin, depth + 1)
        for item in value.items if isinstance(value, ListNode) else (value,):
            if not isinstance(item, MapNode):
                raise ConfigError(origin, "", "only mappings can be merged with <<")
            yield from item.entries.items()


def _unknown_tag(node: yaml.Node, origin: Origin) -> ConfigError:
    return ConfigError(origin, "", f"the tag {quoted(node.tag.replace(_YAML, '!!'))} has no meaning here")
