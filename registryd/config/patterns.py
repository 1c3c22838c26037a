"""Regular expressions as Go writes and matches them, in time linear in the text.

The texts come from whoever pushes. With Python's ``re`` the example in Distribution's documentation,
``^https?://([^/]+\\.)*example\\.com/``, takes minutes for one URL of thirty short labels.
"""

from __future__ import annotations

from typing import Any

import attrs
import re2

from registryd.config.nodes import ScalarNode, quoted
from registryd.config.scalars import Invalid


def _compile(text: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    return re2.compile(text, options)


@attrs.frozen
class Pattern:
    """A pattern; equal to another of the same text.

    Errors (of the constructor):
        Invalid: the text is no pattern.
    """

    text: str
    _compiled: Any = attrs.field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        try:
            object.__setattr__(self, "_compiled", _compile(self.text))
        except re2.error as error:
            told = error.args[0] if error.args else "is none"
            raise Invalid(f"is none: {told.decode() if isinstance(told, bytes) else told}") from None

    def search(self, text: str) -> bool:
        """Whether the pattern matches anywhere in a text."""
        return self._compiled.search(text) is not None


def pattern(node: ScalarNode) -> Pattern:
    """A value that is a pattern."""
    try:
        return Pattern(node.text)
    except Invalid as problem:
        raise Invalid(f"the pattern {quoted(node.text)} {problem}") from None
