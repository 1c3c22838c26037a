"""The collector in a loop, as a process beside daemons."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

COLLECT = (sys.executable, "-m", "registryd_gc")
PATIENCE = 120.0
LONGEST_RUN = 0.15
"""Seconds of a run, from its first step, within which it may be killed."""


def collect(config: Path, *options: str) -> dict[str, Any]:
    """One run to its end; the document that it tells with ``--json``.

    Errors:
        AssertionError: it failed, or found damage.
    """
    done = subprocess.run(
        [*COLLECT, *options, "--json", str(config)], capture_output=True, timeout=PATIENCE, env=_environment()
    )
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stdout.decode()}\n{done.stderr.decode()}"
    document = json.loads(done.stdout)
    assert isinstance(document, dict)
    return document


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}


class Collecting(threading.Thread):
    """Runs of the collector, one after another, until it is stopped; with ``kill`` many end at a random moment.

    ``trash`` is the folder in which a run begins; what it does takes some hundredths of a second from then.
    """

    def __init__(self, config: Path, options: Sequence[str], trash: Path, choice: random.Random, kill: bool) -> None:
        super().__init__(name="collector", daemon=True)
        self._trash = trash
        self._command = [*COLLECT, *options, "--json", str(config)]
        self._choice = choice
        self._kill = kill
        self._over = threading.Event()
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []

    def run(self) -> None:
        while not self._over.is_set() and len(self.faults) < 5:
            try:
                self._run_once()
            except Exception as error:  # noqa: BLE001 (a thread's failure is the test's)
                self.faults.append(f"collector: {type(error).__name__}: {error}")

    def _run_once(self) -> None:
        process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_environment(), text=True
        )
        if self._kill and self._choice.random() < 0.7:
            self._await_run(process)
            time.sleep(self._choice.uniform(0, LONGEST_RUN))
            process.kill()
        try:
            out, err = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"a run did not end in {PATIENCE} s: {process.communicate()}") from None
        if process.returncode == -signal.SIGKILL:
            self.counts["killed"] += 1
            return
        assert process.returncode == 0, f"exit code {process.returncode}: {out}\n{err}"
        self.counts["runs"] += 1
        self._count(json.loads(out))

    def _await_run(self, process: subprocess.Popen[str]) -> None:
        """Return when a run has begun, or ended."""
        before = self._runs()
        while process.poll() is None and not self._runs() - before:
            time.sleep(0.001)

    def _runs(self) -> set[str]:
        try:
            return {path.name for path in self._trash.iterdir()}
        except FileNotFoundError:
            return set()

    def _count(self, document: dict[str, Any]) -> None:
        for kind in ("manifests", "tags", "blobs", "links", "referrers", "repositories", "history"):
            self.counts[f"{kind} removed"] += document[kind]["removed"]
        self.counts["restored"] += document["trash"]["restored"]
        self.faults += [f"collector: damage: {damage}" for damage in document["damage"]]

    def stop(self) -> None:
        """Return when the run that is under way has ended."""
        self._over.set()
        self.join(PATIENCE)
