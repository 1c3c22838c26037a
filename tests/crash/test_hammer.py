"""Clients push, tag, sign, mount, delete and pull the same few things while the collector runs beside two daemons.

What was acknowledged, and is needed, pulls whole at the end; what nothing needs is gone after a last run, and what
that left of signatures in other repositories than their images' after one more.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

import pytest

from tests.clients.v2 import V2
from tests.daemon import Daemon

from .books import Repository
from .clients import Client, missing
from .collecting import Collecting, collect
from .leftovers import signed_elsewhere, wrong_files
from .pushers import Target
from .stock import Stock

CONFIG: Final[dict[str, Any]] = {
    "storage": {"delete": {"enabled": True}},
    "gc": {"grace": "1s"},
    "http": {"draintimeout": "2s"},
}
RUN: Final = ("-m", "--grace", "1s")
REPOSITORIES: Final = ("one", "one/two", "three")
TAGS: Final = tuple(f"t{number}" for number in range(4))


def hammer(seconds: float, clients: int, kill: bool) -> None:
    """Let it all happen for a time, then look at what is left."""
    seed = os.environ.get("REGISTRYD_HAMMER_SEED") or str(random.SystemRandom().randrange(1 << 32))
    print(f"REGISTRYD_HAMMER_SEED={seed} repeats the choices of this run")
    stock = Stock()
    repositories = [Repository(name, list(TAGS), stock) for name in REPOSITORIES]
    with Daemon(**CONFIG) as first, Daemon(root=first.root, **CONFIG) as second:
        daemons = [first, second]
        targets = [Target() for _ in daemons]
        threads = [Client(number, seed, targets, stock, repositories) for number in range(clients)]
        trash = first.tree / "_trash"
        collecting = Collecting(first.config_files[0], RUN, trash, random.Random(f"{seed}/collector"), kill)
        for daemon, target in zip(daemons, targets, strict=True):
            target.up(daemon.port)
        for thread in (*threads, collecting):
            thread.start()
        kills = _pass_time(daemons, targets, random.Random(f"{seed}/kills"), seconds, kill)
        _wait(lambda: not _too_little(seconds, collecting, threads))
        targets[0].over.set()
        for thread in threads:
            thread.join(90)
        collecting.stop()
        counts = sum((thread.counts for thread in threads), Counter[str]())
        print(f"{kills} daemons killed; {dict(collecting.counts)}; {dict(counts)}")
        assert not [thread.name for thread in threads if thread.is_alive()]
        faults = [*collecting.faults, *(fault for thread in threads for fault in thread.faults)]
        faults += _last_faults(daemons, repositories, stock, kill)
        assert not faults, "\n".join(faults[:40])
        assert not _too_little(seconds, collecting, threads)
        assert not [daemon for daemon in daemons if "Traceback" in daemon.stderr], first.stderr[-4000:]


def _too_little(seconds: float, collecting: Collecting, threads: Sequence[Client]) -> str | None:
    """Why what was done proves nothing; None where it does."""
    if collecting.counts["manifests removed"] <= seconds / 2:
        return "too little was collected"
    return "too little was pushed" if sum(thread.counts["tag_again"] for thread in threads) <= seconds else None


def _wait(enough: Callable[[], bool]) -> None:
    """Go on until there is enough, on a machine that is busy with something else; a minute at most."""
    deadline = time.monotonic() + 60
    while not enough() and time.monotonic() < deadline:
        time.sleep(0.1)  # The counts are other threads', which tell nobody when they grow.


def _pass_time(
    daemons: Sequence[Daemon], targets: Sequence[Target], choice: random.Random, seconds: float, kill: bool
) -> int:
    """How many daemons were killed; all run at the end."""
    if not kill:
        threading.Event().wait(seconds)
        return 0
    deadline, kills = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        time.sleep(choice.uniform(0.1, 2.0))
        number = choice.randrange(len(daemons))
        targets[number].down()
        daemons[number].kill()
        daemons[number].start()
        targets[number].up(daemons[number].port)
        kills += 1
    return kills


def _last_faults(
    daemons: Sequence[Daemon], repositories: Sequence[Repository], stock: Stock, killed: bool
) -> list[str]:
    """What is wrong after each of two runs that have the store alone, and after one that finds nothing to do."""
    for daemon in daemons:
        daemon.terminate()
    config, tree = daemons[0].config_files[0], daemons[0].tree
    faults = []
    for _ in range(2):
        signed = signed_elsewhere(tree, repositories, stock)
        collect(config, "-m", "--offline")
        faults += wrong_files(tree, repositories, stock, signed)
    if killed:
        # A session that a killed daemon has left is somebody's to go on with, for a week.
        faults = [fault for fault in faults if "/_uploads" not in fault]
    again = collect(config, "-m", "--offline")
    removed = {kind: told["removed"] for kind, told in again.items() if isinstance(told, dict) and told.get("removed")}
    faults += [f"removed by another run: {removed}"] if removed else []
    daemons[0].start()
    registry = V2("127.0.0.1", daemons[0].port)
    for repository in repositories:
        wanted = {item.digest: item for item in repository.needed()} | repository.tags()
        for reference, item in wanted.items():
            faults += [
                f"lost: {repository.name}: {fault}" for fault in missing(registry, repository.name, reference, item)
            ]
    return faults


def test_hammer() -> None:
    hammer(8, clients=5, kill=False)


def test_hammer_with_kills() -> None:
    hammer(8, clients=5, kill=True)


@pytest.mark.soak
@pytest.mark.parametrize("kill", [False, True], ids=["alive", "killed"])
def test_hammer_for_long(kill: bool) -> None:
    hammer(float(os.environ.get("REGISTRYD_HAMMER_SECONDS", "600")), clients=8, kill=kill)
