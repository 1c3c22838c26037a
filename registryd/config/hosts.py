"""The names that clients know registries by, and what they come to as the first component of a repository's name."""

from __future__ import annotations

from urllib.parse import urlsplit

DOCKER_HUB = "docker.io"
"""The component of Docker Hub, whichever of its names a client or a configuration has for it."""

_HUB_HOSTS = frozenset({DOCKER_HUB, "index.docker.io", "registry-1.docker.io"})
DEFAULT_PORTS = {"http": 80, "https": 443}
"""The ports that URLs of each scheme leave out."""


def component_of(host: str) -> str:
    """The component that stands for a registry: its host in lower case, a port after ``_`` instead of ``:``.

    What is not ASCII stays as it is, and so is no component: some of it has ASCII for its lower case.
    """
    if not host.isascii():
        return host
    component = host.lower().replace(":", "_")
    return DOCKER_HUB if component in _HUB_HOSTS else component


def hosts_of(url: str) -> tuple[str, str]:
    """The host and port of a URL without its scheme's default port, and with it; twice the same where it has another.

    A user's name and password are no part of them.
    """
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    default = f":{DEFAULT_PORTS.get(parts.scheme)}"
    bare = host.removesuffix(default)
    return bare, host if parts.port is not None else bare + default
