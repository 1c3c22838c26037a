"""CNCF Distribution 2.8, as Debian packages it, as a peer on a tree."""

from __future__ import annotations

import re
from pathlib import Path
from types import TracebackType

from .programs import Outcome, Service, program, run
from .v2 import V2

_LISTENING = re.compile(r"listening on 127\.0\.0\.1:(\d+)")


class Distribution:
    """``docker-registry serve`` over a root directory, and its collector; ``folder`` takes its config and log."""

    def __init__(self, root: Path, folder: Path) -> None:
        self._program = program("docker-registry")
        self._config = folder / "distribution.yml"
        self._config.write_text(
            "version: 0.1\n"
            f"storage: {{filesystem: {{rootdirectory: {root}}}, delete: {{enabled: true}}}}\n"
            "http: {addr: '127.0.0.1:0'}\n"
        )
        self._service = Service([self._program, "serve", self._config], folder / "distribution.log")
        self._service.ready(lambda: _LISTENING.search(self._service.log) is not None)
        match = _LISTENING.search(self._service.log)
        assert match is not None
        self.port = int(match[1])

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def connect(self) -> V2:
        return V2("127.0.0.1", self.port)

    def collect(self, *options: str) -> Outcome:
        """Run its garbage collector on the tree, beside the server that is not being pushed to."""
        return run([self._program, "garbage-collect", *options, self._config])

    def __enter__(self) -> Distribution:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._service.stop()
