"""The hostile registry as a process, for tests against a real daemon.

with HostileProcess() as hostile:
    manifest, layers = hostile.image("a/b", "latest", b"layer")
    hostile.switch(break_after=1000, break_times=1)
    ...  # hostile.url is the daemon's remoteurl
    assert hostile.counts["GET blobs"] == 2
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

from registryd.model import Manifest
from registryd.reference import Digest
from tests.clients.certificates import Certificates
from tests.upstream.hostile import encoded
from tests.values import image

_FOLDER = Path(__file__).parents[2]


class HostileProcess:
    """A context manager; TLS is for the daemon alone, and ``/_control`` is not verified."""

    def __init__(self, tls: Certificates | None = None) -> None:
        self._tls = tls
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def __enter__(self) -> HostileProcess:
        files = [] if self._tls is None else ["--tls", str(self._tls.certificate), str(self._tls.key)]
        path = os.pathsep.join([str(_FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.upstream.hostile", *files],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith("listening on "), line
        self.url = line.split()[-1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End it at once, as an upstream that is switched off."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def image(self, name: str, tag: str, *layers: bytes, config: bytes = b"{}") -> tuple[Manifest, list[Digest]]:
        """Hold an image with all that it consists of; its manifest, and its layers' digests."""
        manifest = image(config, *layers)
        self._control(blobs=encoded([config, *layers]))
        self.manifest(name, manifest, tag)
        return manifest, [Digest.of(layer) for layer in layers]

    def manifest(self, name: str, manifest: Manifest, *tags: str) -> None:
        """Hold a manifest under its digest and tags."""
        (content,) = encoded([manifest.content])
        given = {"name": name, "media_type": manifest.media_type, "content": content, "tags": list(tags)}
        self._control(manifests=[given])

    def refer(self, name: str, subject: Digest, descriptor: Mapping[str, Any]) -> None:
        """List a referrer of a subject."""
        self._control(referrers=[{"name": name, "subject": str(subject), "descriptor": dict(descriptor)}])

    def forget(self, *what: str) -> None:
        """Hold blobs no more, by their digests, and manifests, as ``name@reference``."""
        self._control(forget=list(what))

    def switch(self, **switches: Any) -> None:
        """Set switches; see hostile.Switches."""
        self._control(switches=switches)

    def reset(self) -> None:
        """Forget what was asked."""
        self._control(reset=True)

    @property
    def counts(self) -> Counter[str]:
        """How often each was asked for: ``GET blobs``, ``HEAD manifests``, ``GET token`` ..."""
        return Counter(self._control()["counts"])

    @property
    def requests(self) -> Sequence[Mapping[str, Any]]:
        """Each with ``method``, ``path`` and ``headers``, whose names are in lower case."""
        requests: Sequence[Mapping[str, Any]] = self._control()["requests"]
        return requests

    @property
    def state(self) -> Mapping[str, Any]:
        """All that ``/_control`` tells."""
        return self._control()

    def _control(self, **change: Any) -> Mapping[str, Any]:
        data = json.dumps(change).encode() if change else None
        opener = build_opener(ProxyHandler({}), HTTPSHandler(context=ssl._create_unverified_context()))
        request = Request(f"{self.url}/_control", data=data, method="POST" if change else "GET")
        with opener.open(request, timeout=30) as answer:
            state: Mapping[str, Any] = json.loads(answer.read())
        return state
