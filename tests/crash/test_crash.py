"""Nothing acknowledged is lost, and nothing half-written is served, however often the daemon is killed."""

from __future__ import annotations

import os
import random
import time

import pytest

from tests.clients.v2 import V2
from tests.daemon import Daemon

from .inspection import inspect
from .ledger import Ledger
from .pushers import Pusher, Reader, Target


def crash(seconds: float, pushers: int) -> None:
    """Kill the daemon at random moments of pushes for a time, then look at what is left."""
    seed = os.environ.get("REGISTRYD_CRASH_SEED") or str(random.SystemRandom().randrange(1 << 32))
    print(f"REGISTRYD_CRASH_SEED={seed} repeats the choices of this run")
    target, ledger = Target(), Ledger()
    threads = [Pusher(number, seed, target, ledger) for number in range(pushers)]
    threads.append(Reader(pushers, seed, target, ledger))
    with Daemon(storage={"delete": {"enabled": True}}) as daemon:
        target.up(daemon.port)
        for thread in threads:
            thread.start()
        kills = kill_at_random(daemon, target, random.Random(seed), seconds)
        target.over.set()
        for thread in threads:
            thread.join(60)
        print(f"{kills} kills; {ledger}")
        daemon.kill()
        daemon.start()
        faults = [*ledger.faults, *inspect(V2("127.0.0.1", daemon.port), daemon.tree, ledger)]
        assert not faults, "\n".join(faults[:40])
        assert not [thread.name for thread in threads if thread.is_alive()]
        assert len(ledger.blobs(acknowledged=True)) > 10 * kills, "too little was pushed to prove anything"
        assert "Traceback" not in daemon.stderr, daemon.stderr[-4000:]


def kill_at_random(daemon: Daemon, target: Target, choice: random.Random, seconds: float) -> int:
    """How often the daemon was killed; it runs again at the end."""
    deadline, kills = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        time.sleep(choice.uniform(0.02, 1.5))
        target.down()
        daemon.kill()
        kills += 1
        daemon.start()
        target.up(daemon.port)
    return kills


def test_kill() -> None:
    crash(9, pushers=4)


@pytest.mark.soak
def test_kill_for_long() -> None:
    crash(300, pushers=16)
