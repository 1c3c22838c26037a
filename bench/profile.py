"""Where registryd spends its time in a row: py-spy watches it from outside while the row's load runs."""

from __future__ import annotations

import collections
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import attrs

from bench.loads import Amount
from bench.measure import Site
from bench.rows import Row
from bench.servers import REGISTRYD, ServerError, running

_RATE = 250
_TURN = Amount(seconds=2.0, large=1)


@attrs.frozen
class Stack:
    """A call stack, outermost function first, and how many samples found it."""

    frames: Sequence[str]
    samples: int


def profile(row: Row, site: Site, seconds: int, native: bool, output: Path) -> list[Stack]:
    """The stacks of registryd under a row's load; ``output`` gets them in the form that flame graphs are made from.

    Errors:
        ServerError: registryd does not start, or py-spy is not installed or may not watch it.
    """
    spy = shutil.which("py-spy", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if spy is None:
        raise ServerError("py-spy is not installed: pip install py-spy")
    site.prepare(row)
    with running(REGISTRYD, site.place(row, REGISTRYD), site.server_cpus) as server:
        load = row.prepare(server)
        load(_TURN)
        command = [spy, "record", "--pid", str(server.pid), "--rate", str(_RATE), "--duration", str(seconds)]
        command += ["--format", "raw", "--output", str(output), *(["--native"] if native else [])]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as spying:
            while spying.poll() is None:
                load(_TURN)
            if spying.returncode:
                raise ServerError(f"py-spy failed: {spying.stderr.read() if spying.stderr else ''}")
    return list(_stacks(output.read_text().splitlines()))


def _stacks(lines: Iterable[str]) -> Iterator[Stack]:
    for line in lines:
        frames, _, samples = line.rpartition(" ")
        stack = Stack(frames.split(";"), int(samples))
        if not _waits(stack):
            yield stack


def _waits(stack: Stack) -> bool:
    # py-spy leaves out threads that sleep, but does not know that of those that wait for a lock.
    return any(_function(frame) in _WAITING for frame in stack.frames)


_WAITING = frozenset({"Queue.get (queue.py)", "get (queue.py)"})


def summary(stacks: Sequence[Stack], top: int) -> Iterator[str]:
    """The functions that most samples found running, those that most found on the stack, and the lines found most."""
    total = sum(stack.samples for stack in stacks) or 1
    own: collections.Counter[str] = collections.Counter()
    within: collections.Counter[str] = collections.Counter()
    lines: collections.Counter[str] = collections.Counter()
    for stack in stacks:
        own[_function(stack.frames[-1])] += stack.samples
        lines[stack.frames[-1]] += stack.samples
        for function in {_function(frame) for frame in stack.frames}:
            within[function] += stack.samples
    for outer in [function for function, samples in within.items() if samples > _OUTER * total]:
        del within[outer]
    for title, counted in (("own time", own), ("with what it calls", within), ("own time by line", lines)):
        yield f"{title}, % of {total} samples"
        yield from (f"  {100 * samples / total:5.1f}  {name}" for name, samples in counted.most_common(top))


# What nearly every sample has on its stack is the way into the reactor: it tells nothing.
_OUTER = 0.97


def _function(frame: str) -> str:
    return re.sub(r":\d+\)$", ")", frame)
