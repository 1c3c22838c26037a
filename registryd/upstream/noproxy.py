"""What NO_PROXY names: hosts that are reached without a proxy.

Source: golang.org/x/net/http/httpproxy, Config.NoProxy, by which docker, containerd and Distribution read it.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import attrs

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


@attrs.frozen
class NoProxy:
    """The entries of a NO_PROXY. What is on this machine needs none: no proxy could reach it."""

    _entries: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> NoProxy:
        entries = (entry.strip().lower() for entry in text.split(","))
        return cls(tuple(entry for entry in entries if entry))

    def covers(self, host: str, port: int) -> bool:
        """Whether a port of a host, which has a name or an address, is reached directly."""
        host = host.lower().rstrip(".")
        address = _address(host)
        if host == "localhost" or (address is not None and address.is_loopback):
            return True
        return any(_matches(entry, host, address, port) for entry in self._entries)


def _matches(entry: str, host: str, address: Address | None, port: int) -> bool:
    if entry == "*":
        return True
    network = _network(entry)
    if network is not None:
        return address is not None and address in network
    named, only = _port(entry)
    if only not in ("", str(port)):
        return False
    if address is not None and _address(named) == address:
        return True
    # A name stands for itself and for all below it, one with a dot or a star in front for these alone.
    below = named.removeprefix("*") if named.startswith("*.") else named
    return host.endswith(below if below.startswith(".") else f".{below}") or host == below


def _port(entry: str) -> tuple[str, str]:
    """The host of an entry, and its port, if any; an address of IPv6 that has a port is in brackets."""
    if entry.startswith("["):
        host, _, port = entry[1:].partition("]")
        return host, port.removeprefix(":")
    if entry.count(":") == 1:
        host, _, port = entry.partition(":")
        return host, port
    return entry, ""


def _address(text: str) -> Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _network(text: str) -> Network | None:
    if "/" not in text:
        return None
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None
