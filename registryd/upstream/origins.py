"""Origins of URLs: who would be spoken to, and whom a secret may be told."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import urlsplit

import attrs

from registryd.config.hosts import DEFAULT_PORTS

_ADDRESS = re.compile(r"[\d.]+|.*:.*")
_ORIGIN = re.compile(r"[^/?#]*//[^/?#]*")


@attrs.frozen
class Origin:
    """The scheme, host and port of a URL. ``str`` of it says nothing of the rest, which may hold secrets."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}")

    @property
    def server(self) -> str:
        """Host and port, as credentials are kept for."""
        return str(self).partition("://")[2]

    @classmethod
    def of(cls, url: str) -> Origin:
        """The origin of an absolute URL.

        Errors:
            ValueError: it is none of http or https; the text does not repeat it.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise ValueError("malformed URL") from None
        if parts.scheme not in DEFAULT_PORTS or not host or not host.isascii():
            raise ValueError("no URL of http or https")
        return cls(parts.scheme, host, port or DEFAULT_PORTS[parts.scheme])

    def may_lead_to(self, other: Origin) -> bool:
        """Whether an answer from here may send a client there: never from https to http."""
        return not (self.scheme == "https" and other.scheme == "http")

    def is_also(self, other: Origin) -> bool:
        """Whether another is the same server: the same origin, or what becomes of it with TLS at the usual ports."""
        usual = [Origin(scheme, self.host, DEFAULT_PORTS[scheme]) for scheme in ("http", "https")]
        return other == self or [self, other] == usual

    def trusts(self, other: Origin) -> bool:
        """Whether what is secret here may be told there: on this host, or below the same registrable domain."""
        if not self.may_lead_to(other):
            return False
        return self.host == other.host or _same_domain(self.host, other.host)


def below_origin(url: str) -> str:
    """What follows the origin in an absolute URL."""
    return _ORIGIN.sub("", url, count=1)


def _same_domain(host: str, other: str) -> bool:
    domain = _registrable(host)
    return domain is not None and domain == _registrable(other)


@lru_cache(maxsize=256)
def _registrable(host: str) -> str | None:
    """The part of a host's name that somebody registered, below a public suffix; None for a suffix, or an address.

    A suffix that nobody knows, as that of a company's own names, is its last component.
    """
    if _ADDRESS.fullmatch(host):
        return None
    # The list takes 50 ms to read: only who meets a token service on another host waits for it.
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList(accept_unknown=True).privatesuffix(host.rstrip("."))
