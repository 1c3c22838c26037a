"""CNCF Distribution 2.8, as Debian packages it: as a peer on a tree, and as an upstream."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from .programs import Outcome, Service, program, run, wait_until
from .v2 import V2

_MARKS = count(1)
_LISTENING = re.compile(r"listening on 127\.0\.0\.1:(\d+)")


def config(root: Path) -> Mapping[str, Any]:
    """A config file, as Debian's package has it but for the address."""
    return {
        "version": 0.1,
        "log": {"fields": {"service": "registry"}},
        "storage": {
            "cache": {"blobdescriptor": "inmemory"},
            "filesystem": {"rootdirectory": str(root)},
            "delete": {"enabled": True},
        },
        "http": {"addr": "127.0.0.1:0", "headers": {"X-Content-Type-Options": ["nosniff"]}},
        "health": {"storagedriver": {"enabled": True, "interval": "10s", "threshold": 3}},
    }


class Distribution:
    """``docker-registry serve`` over a root directory, and its collector; ``folder`` takes its config and log.

    ``more`` are sections of its config file beside those that say where it listens and what it stores.
    """

    def __init__(self, root: Path, folder: Path, **more: Any) -> None:
        self._program = program("docker-registry")
        folder.mkdir(parents=True, exist_ok=True)
        self._config = folder / "distribution.yml"
        self._config.write_text(yaml.safe_dump({**config(root), **more}))
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

    def asked(self, path: str, method: str = "GET", status: int = 200) -> int:
        """How many requests for a path it has answered with a status, as its access log tells."""
        if self._service.process.poll() is None:
            # The line of a request follows its answer: one that is asked for now comes behind those.
            mark = f"/v2/?mark={next(_MARKS)}"
            self.connect().get(mark)
            wait_until(lambda: mark in self._service.log, 10, "the access log is written")
        return self._service.log.count(f'"{method} {path} HTTP/1.1" {status} ')

    def stand_still(self) -> None:
        """Take connections, and answer nothing, until it goes on."""
        self._service.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._service.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Switch it off."""
        self._service.stop()

    def __enter__(self) -> Distribution:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._service.stop()
