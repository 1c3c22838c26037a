"""What the client tests need to know of the registry that they talk to."""

from __future__ import annotations

import ssl
from pathlib import Path

import attrs

from .v2 import V2


@attrs.frozen
class Registry:
    """A registry that serves on loopback, and the root directory of its store."""

    port: int
    root: Path
    tls: ssl.SSLContext | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def connect(self) -> V2:
        return V2("127.0.0.1", self.port, tls=self.tls)

    def digest(self, repository: str, reference: str) -> str:
        """The digest of what a tag names."""
        return self.connect().manifest(repository, reference).expect(200).headers["Docker-Content-Digest"]
