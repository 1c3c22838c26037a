"""The kinds that single values have."""

from __future__ import annotations

from registryd.config import scalars
from registryd.config.kinds import Anything, Leaf, ListOf, MapOf, nanoseconds_doubt
from registryd.config.patterns import pattern

TEXT = Leaf("a text", scalars.text)
PATH = Leaf("a path", scalars.path)
URL = Leaf("a URL", scalars.url)
BOOLEAN = Leaf("true or false", scalars.boolean)
FLAG = Leaf("true or false", scalars.flag)
INTEGER = Leaf("a whole number", scalars.integer)
SECONDS = Leaf("a duration", scalars.seconds, nanoseconds_doubt)
NOT_NEGATIVE = Leaf("a duration", scalars.not_negative, nanoseconds_doubt)
POSITIVE = Leaf("a duration", scalars.positive, nanoseconds_doubt)
SIZE = Leaf("a size", scalars.size)
TEXTS = ListOf(TEXT)
PATHS = ListOf(PATH)
HEADERS = MapOf(ListOf(Leaf("a header's value", scalars.header_value)))
PATTERNS = ListOf(Leaf("a regular expression", pattern))
ANYTHING = Anything()
