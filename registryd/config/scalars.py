"""Single values as Distribution reads them: what a type makes of a text.

Source: Go's time.ParseDuration and strconv.ParseInt, and yaml.v2's table of YAML 1.1 words. Whatever the type is
known, the text decides: ``1234`` and ``yes`` are texts where a text is wanted.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from urllib.parse import urlsplit

from registryd.config.nodes import ScalarNode, quoted

_TRUE = frozenset({"y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"})
_FALSE = frozenset({"n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"})
_DIGITS = 64
_INTEGER = re.compile(r"([-+]?)(?:0[xX]([0-9a-fA-F]+)|0[bB]([01]+)|0[oO]?([0-7]+)|([0-9]+))", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?", re.ASCII)
_INT64 = 1 << 63
_NANO = Fraction(1, 10**9)
_UNITS = {
    "ns": _NANO,
    "us": _NANO * 1000,
    "µs": _NANO * 1000,
    "μs": _NANO * 1000,
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "m": Fraction(60),
    "h": Fraction(3600),
}
_TERM = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_DURATION = re.compile(rf"([-+]?)((?:{_TERM.pattern})+)", re.ASCII)
_SIZE = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,9})?) ?([a-z]*)", re.ASCII | re.IGNORECASE)
_SIZES = {"": 1, "b": 1} | {
    f"{prefix}{suffix}": base ** (power + 1)
    for power, prefix in enumerate("kmgtp")
    for suffix, base in (("b", 1000), ("ib", 1024))
}
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


class Invalid(ValueError):
    """A text that is no value of its type: what is wrong with it and what would be right."""


def text(node: ScalarNode) -> str:
    """Any text."""
    return node.text


def path(node: ScalarNode) -> str:
    """A file's path."""
    if "\0" in node.text:
        raise Invalid("a path cannot hold a zero byte")
    return node.text


def boolean(node: ScalarNode) -> bool:
    """A YAML 1.1 boolean."""
    if not node.plain and node.text in _TRUE | _FALSE:
        raise Invalid(f"{quoted(node.text)} in quotes is a text: write {node.text} without them")
    if node.text not in _TRUE | _FALSE:
        raise Invalid(f"{quoted(node.text)} is neither true nor false")
    return node.text in _TRUE


def flag(node: ScalarNode) -> bool:
    """A boolean as storage drivers take it, in quotes too."""
    if node.text in {"1", "t", "T"}:
        return True
    if node.text in {"", "0", "f", "F"}:
        return False
    return boolean(ScalarNode(node.origin, node.text))


def integer(node: ScalarNode) -> int:
    """A whole number of 64 bits; a fraction that is whole (1e3) is one."""
    number = _number(node.text)
    if number is None or number != int(number) or not -_INT64 <= number < _INT64:
        raise Invalid(f"{quoted(node.text)} is not a whole number")
    return int(number)


def seconds(node: ScalarNode) -> float:
    """A duration, in seconds: as Go writes it, or a bare number of nanoseconds."""
    number = _number(node.text) if node.plain else None
    duration = _duration(node.text) if number is None else int(number) * _NANO
    if duration is None or abs(duration) >= _INT64 * _NANO:
        raise Invalid(f"{quoted(node.text)} is not a duration: write for example 90s, 1h30m, 500ms")
    return float(duration)


def positive(node: ScalarNode) -> float:
    """A duration that is longer than none."""
    duration = seconds(node)
    if duration <= 0:
        raise Invalid(f"{quoted(node.text)} is not longer than no time: write for example 90s, 24h")
    return duration


def not_negative(node: ScalarNode) -> float:
    """A duration that may be none."""
    duration = seconds(node)
    if duration < 0:
        raise Invalid(f"{quoted(node.text)} is negative: write for example 90s, or 0")
    return duration


def bare_nanoseconds(node: ScalarNode) -> bool:
    """Whether a duration is a small number without a unit, so that who wrote it hardly meant nanoseconds."""
    number = _number(node.text) if node.plain else None
    return number is not None and 0 < number < 10**9


def size(node: ScalarNode) -> int:
    """A number of bytes: 4194304, 4MB (of 1000), 4MiB (of 1024)."""
    match = _SIZE.fullmatch(node.text)
    if match is None or match[2].lower() not in _SIZES:
        raise Invalid(f"{quoted(node.text)} is not a size: write for example 4194304, 4MiB, 200GB")
    number = int(Fraction(match[1]) * _SIZES[match[2].lower()])
    if not 0 < number < _INT64:
        raise Invalid(f"{quoted(node.text)} is out of range: write for example 4194304, 4MiB, 200GB")
    return number


def url(node: ScalarNode) -> str:
    """An absolute http or https URL, without a slash at its end; or nothing."""
    if not node.text:
        return ""
    try:
        parts = urlsplit(node.text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment or re.search(r"[\s\0-\x1f\x7f\"<>\\^`{|}]", node.text):
        raise Invalid("needs a whole URL such as https://registry.example.com")
    return node.text.rstrip("/")


def header_value(node: ScalarNode) -> str:
    """What may stand in an HTTP header."""
    if _HEADER_VALUE.fullmatch(node.text) is None:
        raise Invalid(f"{quoted(node.text)} cannot stand in an HTTP header")
    return node.text


def is_header_name(name: str) -> bool:
    """Whether a text may be the name of an HTTP header."""
    return _HEADER_NAME.fullmatch(name) is not None


def choice(*words: str, fold: bool = False) -> Callable[[ScalarNode], str]:
    """One of some words, or nothing; with ``fold`` one of them, whatever its case."""
    right = " or ".join((", ".join(words[:-1]), words[-1])) if len(words) > 1 else words[0]

    def choose(node: ScalarNode) -> str:
        word = node.text.lower() if fold else node.text
        if word not in words and (word or fold):
            raise Invalid(f"{quoted(node.text)} is not supported: use {right}")
        return word

    return choose


def _number(text: str) -> Fraction | None:
    digits = text.replace("_", "") if len(text) <= _DIGITS else ""
    if match := _INTEGER.fullmatch(digits):
        sign, hexadecimal, binary, octal, decimal = match.groups()
        bases = ((hexadecimal, 16), (binary, 2), (octal, 8), (decimal, 10))
        number = next(int(part, base) for part, base in bases if part is not None)
        return Fraction(-number if sign == "-" else number)
    return Fraction(digits) if _FLOAT.fullmatch(digits) else None


def _duration(text: str) -> Fraction | None:
    if text in ("0", "+0", "-0"):
        return Fraction(0)
    match = _DURATION.fullmatch(text) if len(text) <= _DIGITS else None
    if match is None:
        return None
    total = sum((_fraction(number) * _UNITS[unit] for number, unit in _TERM.findall(match[2])), Fraction(0))
    return -total if match[1] == "-" else total


def _fraction(digits: str) -> Fraction:
    whole, _, part = digits.partition(".")
    return Fraction(int(whole or "0")) + Fraction(int(part or "0"), 10 ** len(part))
