"""Environment variables over a configuration: each sets the value that its name leads to.

Source: Distribution's ``configuration/parser.go``. ``REGISTRY_HTTP_TLS_CLIENTCAS_0`` is ``http.tls.clientcas``, item 0;
the value is YAML, so that a variable can set a whole section. Shorter names go before the longer ones below them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping

import attrs

from registryd.config.kinds import Anything, Kind, Leaf, ListOf, MapOf, Section, as_section
from registryd.config.nodes import ConfigError, ListNode, MapNode, Node, Origin, ScalarNode, is_null
from registryd.config.source import parse

PREFIX = "REGISTRY_"
PATH_VARIABLE = "REGISTRY_CONFIGURATION_PATH"
"""Names the file where the command line names none."""
_SERVICE_LINK = re.compile(
    r"REGISTRY_([A-Z0-9_]+_)?(SERVICE_(HOST|PORT(_.+)?)|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
"""What Kubernetes and Docker links set by themselves for a service that is called ``registry``."""


class _LeadsNowhere(Exception):
    """A variable's name is no key's."""


@attrs.frozen
class Overlay:
    """The environment, over configurations of one schema; ``known`` are the names that its keys have."""

    root: Section
    known: tuple[str, ...]
    remark: Callable[[str], None]

    def apply(self, node: Node, environ: Mapping[str, str]) -> Node:
        """A configuration with what the environment sets.

        Errors:
            ConfigError: a value is not YAML, or an index is none that its list has or could have next.
        """
        for variable in sorted((name for name in environ if name.startswith(PREFIX)), key=_order):
            parts = tuple(variable.split("_")[1:])
            if variable == PATH_VARIABLE:
                continue
            if parts == ("VERSION",):
                self.remark(f"{variable}: ignored: only the file tells its version")
                continue
            try:
                node = _Setting(variable, environ[variable]).set(self.root, node, parts)
            except _LeadsNowhere:
                self.remark(self._unrecognized(variable))
        return node

    def _unrecognized(self, variable: str) -> str:
        line = f"{variable}: unrecognized environment variable, ignored"
        if _SERVICE_LINK.fullmatch(variable):
            return f"{line} (it looks like a service link of Kubernetes)"
        close = difflib.get_close_matches(variable[:100], self.known, n=1, cutoff=0.8)
        return Origin(line + (f" (did you mean {close[0]}?)" if close else "")).says("", "")


@attrs.frozen
class _Setting:
    """One variable."""

    variable: str
    value: str

    @property
    def origin(self) -> Origin:
        return Origin(self.variable)

    def set(self, kind: Kind, node: Node, parts: tuple[str, ...]) -> Node:
        """A node with the value at the end of the way that the parts of the name go."""
        if not parts:
            return self._parsed()
        if isinstance(kind, Section):
            return self._in_section(kind, node, parts)
        if isinstance(kind, ListOf):
            return self._in_list(kind.item, _as_list(kind, node), parts)
        if isinstance(kind, MapOf):
            return self._in_map(kind.value, node, parts)
        if isinstance(kind, Leaf) or (not isinstance(node, (MapNode, ListNode)) and not is_null(node)):
            raise _LeadsNowhere
        if isinstance(node, ListNode):
            return self._in_list(kind, node, parts)
        return self._in_map(kind, node, parts)

    def _parsed(self) -> Node:
        node, _ = parse(self.value, lambda line: self.origin)
        return node

    def _in_section(self, section: Section, node: Node, parts: tuple[str, ...]) -> Node:
        key = next((key for key in section.keys if section.variable(key) == parts[0]), None)
        if key is None and not section.open:
            raise _LeadsNowhere
        if key is None:
            return self._in_map(Anything(), as_section(section, node), parts)
        return self._entry(section.keys[key], self._mapping(as_section(section, node)), key, parts)

    def _in_map(self, kind: Kind, node: Node, parts: tuple[str, ...]) -> Node:
        mapping = self._mapping(node)
        key = next((key for key in mapping.entries if key.upper() == parts[0].upper()), parts[0].lower())
        return self._entry(kind, mapping, key, parts)

    def _entry(self, kind: Kind, mapping: MapNode, key: str, parts: tuple[str, ...]) -> Node:
        below = mapping.entries.get(key, ScalarNode(self.origin, ""))
        return mapping.with_entry(key, self.set(kind, below, parts[1:]))

    def _in_list(self, kind: Kind, node: Node, parts: tuple[str, ...]) -> Node:
        items = list(node.items) if isinstance(node, ListNode) else []
        if not isinstance(node, ListNode) and not is_null(node):
            raise ConfigError(node.origin, "", "needs a list")
        if not _is_index(parts[0]):
            raise ConfigError(self.origin, "", f"a list is indexed by a number, not by {parts[0][:80]!r}")
        index = int(parts[0])
        if index > len(items):
            raise ConfigError(self.origin, "", f"undefined index {index}: the next one is {len(items)}")
        if index == len(items):
            items.append(ScalarNode(self.origin, ""))
        items[index] = self.set(kind, items[index], parts[1:])
        return ListNode(self.origin if is_null(node) else node.origin, tuple(items))

    def _mapping(self, node: Node) -> MapNode:
        if is_null(node):
            return MapNode(self.origin)
        if not isinstance(node, MapNode):
            raise ConfigError(node.origin, "", f"needs a mapping of keys to values, for {self.variable} to set one")
        return node


def _as_list(kind: ListOf, node: Node) -> Node:
    alone = kind.single and isinstance(node, ScalarNode) and not is_null(node)
    return ListNode(node.origin, (node,)) if alone else node


def _is_index(part: str) -> bool:
    return len(part) <= 9 and part.isascii() and part.isdigit()


def _order(variable: str) -> tuple[tuple[int, int, str], ...]:
    """By name, but index 2 before index 10: a list that grows item by item can have more than ten."""
    return tuple((0, int(part), "") if _is_index(part) else (1, 0, part) for part in variable.split("_"))
