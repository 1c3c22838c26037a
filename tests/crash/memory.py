"""How much memory a daemon has needed."""

from __future__ import annotations

import re
from pathlib import Path

from tests.daemon import Daemon


def peak(daemon: Daemon) -> int:
    """The most memory that the daemon has had resident, in bytes."""
    match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{daemon.pid}/status").read_text())
    assert match is not None
    return int(match[1]) * 1024
