"""Nothing acknowledged is lost, nothing half-written is served, whenever the daemon is killed or the power fails."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from tests.clients.v2 import V2
from tests.daemon import Daemon

from .collecting import collect
from .disks import Disk
from .inspection import inspect
from .ledger import Ledger
from .pushers import Pusher, Reader, Target


def crash(seconds: float, pushers: int, disk: Disk | None = None) -> None:
    """Kill the daemon, and cut the power, at random moments of pushes for a time, then look at what is left."""
    seed = os.environ.get("REGISTRYD_CRASH_SEED") or str(random.SystemRandom().randrange(1 << 32))
    print(f"REGISTRYD_CRASH_SEED={seed} repeats the choices of this run")
    target, ledger = Target(), Ledger()
    threads = [Pusher(number, seed, target, ledger, disk is not None) for number in range(pushers)]
    threads.append(Reader(pushers, seed, target, ledger))
    with Daemon(root=disk.folder / "store" if disk else None, storage={"delete": {"enabled": True}}) as daemon:
        target.up(daemon.port)
        for thread in threads:
            thread.start()
        kills = kill_at_random(daemon, target, random.Random(seed), seconds, disk)
        target.over.set()
        for thread in threads:
            thread.join(60)
        print(f"{kills} kills; {ledger}")
        end(daemon, disk)
        daemon.start()
        faults = [*ledger.faults, *inspect(V2("127.0.0.1", daemon.port), daemon.tree, ledger)]
        assert not faults, "\n".join(faults[:40])
        assert not [thread.name for thread in threads if thread.is_alive()]
        assert len(ledger.blobs(acknowledged=True)) > 10 * kills, "too little was pushed to prove anything"
        assert "Traceback" not in daemon.stderr, daemon.stderr[-4000:]
        collect(daemon.config_files[0], "--grace", "1ms")
        assert not [path for path in daemon.tree.rglob("*.tmp") if path.is_file()]


def kill_at_random(daemon: Daemon, target: Target, choice: random.Random, seconds: float, disk: Disk | None) -> int:
    """How often the daemon was killed; it runs again at the end."""
    deadline, kills = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        time.sleep(choice.uniform(0.02, 1.5))
        target.down()
        end(daemon, disk)
        kills += 1
        daemon.start()
        target.up(daemon.port)
    return kills


def end(daemon: Daemon, disk: Disk | None) -> None:
    """Kill the daemon, and where it has a disk of its own, cut the power right then."""
    daemon.kill()
    if disk is not None:
        disk.cut_power()


def test_kill() -> None:
    crash(9, pushers=4)


@pytest.mark.soak
def test_kill_for_long() -> None:
    crash(300, pushers=16)


def test_power_failure(tmp_path: Path) -> None:
    with Disk.mounted(tmp_path, 2 << 30) as disk:
        crash(9, 4, disk)


@pytest.mark.soak
def test_power_failure_for_long(tmp_path: Path) -> None:
    with Disk.mounted(tmp_path, 16 << 30) as disk:
        crash(300, 8, disk)
