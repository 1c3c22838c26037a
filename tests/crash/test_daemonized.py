"""twistd without ``--nodaemon``: whoever starts the daemon is told whether it runs."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.clients.v2 import V2

SOON = 10.0
"""Seconds within which twistd has to say how it went, on a machine that is busy with other things."""

TWISTD = str(Path(sys.executable).with_name("twistd"))
PACKAGES = str(Path(__file__).resolve().parents[2])


class Started:
    """A twistd that goes into the background, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pidfile = folder / "registryd.pid"
        self.log = folder / "log"

    def start(self, root: str, port: int) -> subprocess.CompletedProcess[bytes]:
        """What became of twistd; subprocess.TimeoutExpired if it tells nobody."""
        config = self.folder / "config.yml"
        document = {
            "version": 0.1,
            "http": {"addr": f"127.0.0.1:{port}"},
            "storage": {"filesystem": {"rootdirectory": root}},
        }
        config.write_text(yaml.safe_dump(document), encoding="utf-8")
        arguments = [TWISTD, f"--pidfile={self.pidfile}", "registryd", "--config", str(config)]
        # What it says goes to a file: a pipe that a daemon keeps open would not end.
        with self.log.open("ab") as log:
            return subprocess.run(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": PACKAGES},
                timeout=SOON,
            )

    @property
    def said(self) -> str:
        """What twistd said on its descriptors, and what the daemon did in its log file."""
        logs = (self.log, self.folder / "twistd.log")
        return "".join(log.read_text(encoding="utf-8") for log in logs if log.exists())

    def pid(self) -> int | None:
        try:
            return int(self.pidfile.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def end(self) -> None:
        """End what is left, so that no test leaves a daemon behind."""
        pid = self.pid()
        if pid is not None and _is_twistd(pid):
            os.kill(pid, signal.SIGKILL)


def _is_twistd(pid: int) -> bool:
    try:
        return b"registryd" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    one = Started(tmp_path)
    yield one
    one.end()


def _assert_refused(started: Started, outcome: subprocess.CompletedProcess[bytes], why: str) -> None:
    assert outcome.returncode != 0, started.said
    assert re.search(why, started.said), started.said
    assert not started.pidfile.exists()


def test_a_store_that_cannot_be_written(started: Started) -> None:
    _assert_refused(started, started.start("/dev/null/store", 0), "cannot be written")


def test_a_port_in_use(started: Started) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        outcome = started.start(str(started.folder / "store"), taken.getsockname()[1])
    _assert_refused(started, outcome, "cannot listen")


def test_it_serves_and_ends(started: Started) -> None:
    outcome = started.start(str(started.folder / "store"), 0)
    assert outcome.returncode == 0, started.said
    pid = started.pid()
    assert pid is not None and _is_twistd(pid)
    listening = _await_listening(started)
    V2("127.0.0.1", listening).get("/v2/").expect(200)
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + SOON
    while _is_twistd(pid) or started.pidfile.exists():
        assert time.monotonic() < deadline, started.said
        time.sleep(0.02)
    assert "Traceback" not in started.said


def _await_listening(started: Started) -> int:
    deadline = time.monotonic() + SOON
    while (found := re.search(r"listening on http://127\.0\.0\.1:(\d+)", started.said)) is None:
        assert time.monotonic() < deadline, started.said
        time.sleep(0.02)
    return int(found[1])
