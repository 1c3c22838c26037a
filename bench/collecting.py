"""The collector's rows: a whole run as a process, its wall and CPU time and its memory, beside docker-registry's."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import attrs

from bench.measure import Site
from bench.servers import CHECKOUT, DISTRIBUTION, REGISTRYD, ServerError, environment
from bench.trees import LARGE, LARGE_QUICK, LINKED, ORDINARY, Shape, blobs_in

_COMMANDS: Mapping[str, Sequence[str]] = {
    REGISTRYD: (sys.executable, "-m", "registryd_gc"),
    DISTRIBUTION: ("docker-registry", "garbage-collect"),
}
_BOTH = (REGISTRYD, DISTRIBUTION)
_DRY = "--dry-run"
_RESIDENT, _RESIDENT_A_BLOB = 60e6, 150
_SAMPLED = 0.05


@attrs.frozen
class Collection:
    """A row: what is collected, by whom, and what registryd's times are to be at most, as parts of docker-registry's.

    Of the deleting runs, docker-registry's are always ``offline``: no registry may write then. registryd's need not be.

    ``rounds`` and ``shape`` have a long and a short form.
    """

    key: str
    title: str
    programs: Sequence[str]
    shapes: tuple[Shape, Shape]
    rounds: tuple[int, int]
    dry: bool
    offline: bool = False
    wall: float | None = None
    cpu: float | None = None

    def shape(self, quick: bool) -> Shape:
        return self.shapes[quick]


COLLECTIONS: Sequence[Collection] = (
    Collection("collect-dry", "dry run", _BOTH, (ORDINARY, ORDINARY), (5, 3), True, wall=1.0, cpu=1.0),
    Collection("collect", "deleting run", _BOTH, (ORDINARY, ORDINARY), (3, 3), False, wall=0.5),
    Collection("collect-offline", "deleting run, offline", _BOTH, (ORDINARY, ORDINARY), (3, 1), False, True),
    Collection("collect-links", "deleting run, and 38,000 links", _BOTH, (LINKED, LINKED), (3, 1), False),
    Collection("collect-large", "deleting run, and links", (REGISTRYD,), (LARGE, LARGE_QUICK), (1, 1), False),
)


@attrs.frozen
class Run:
    """One run: seconds of wall and CPU time, and the most bytes that all its processes had resident."""

    wall: float
    cpu: float
    peak: float


@attrs.frozen
class Collected:
    """What a row gave: the runs of each program, or why there are none."""

    row: Collection
    shape: Shape
    runs: Mapping[str, Sequence[Run]]
    failure: str | None = None

    def median(self, program: str, of: Callable[[Run], float]) -> float:
        return statistics.median(map(of, self.runs[program]))

    def ratio(self, of: Callable[[Run], float]) -> float | None:
        """registryd's median over docker-registry's."""
        if not all(self.runs.get(program) for program in _BOTH):
            return None
        return self.median(REGISTRYD, of) / self.median(DISTRIBUTION, of)

    @property
    def most(self) -> float:
        """The bytes that registryd may have resident."""
        return _RESIDENT + _RESIDENT_A_BLOB * self.shape.blobs

    def met(self) -> bool | None:
        """Whether registryd reaches all that is asked of it; None where it was not measured beside its peer."""
        ratios = [(self.ratio(_wall), self.row.wall), (self.ratio(_cpu), self.row.cpu)]
        asked = [(ratio, limit) for ratio, limit in ratios if limit is not None]
        if not self.runs.get(REGISTRYD) or any(ratio is None for ratio, _ in asked):
            return None
        within = [ratio is not None and ratio <= limit for ratio, limit in asked]
        return all(within) and self.median(REGISTRYD, _peak) < self.most


def _wall(run: Run) -> float:
    return run.wall


def _cpu(run: Run) -> float:
    return run.cpu


def _peak(run: Run) -> float:
    return run.peak


def collection_named(key: str) -> Collection | None:
    """The row of a key, if it is one of these."""
    return next((row for row in COLLECTIONS if row.key == key), None)


def collect(row: Collection, quick: bool, site: Site, programs: Sequence[str]) -> Collected:
    """Write a row's stores and measure its programs by turns."""
    shape = row.shape(quick)
    runs: dict[str, list[Run]] = {program: [] for program in row.programs if program in programs}
    stores = {program: _store(row, program, shape, site) for program in runs}
    try:
        for _ in range(row.rounds[quick]):
            for program, store in stores.items():
                _fill(store, shape)
                # What was not read for some seconds may be out of the page cache, and the other program's store in it.
                _run(program, store, [_DRY], site)
                runs[program].append(_turn(row, shape, program, store, site))
        return Collected(row, shape, runs)
    except (ServerError, OSError, subprocess.SubprocessError) as error:
        return Collected(row, shape, {}, f"{type(error).__name__}: {error}")


def _store(row: Collection, program: str, shape: Shape, site: Site) -> Path:
    """Where a program collects: a store of its own where it deletes, and one of another row where both only look."""
    return site.folder / f"collected-{REGISTRYD if row.dry else program}-{shape.blobs}-{shape.linked}"


def _fill(store: Path, shape: Shape) -> None:
    """Write a store, or what a run has taken from it, unless it is whole."""
    if _is_whole(store).exists():
        return
    figures = [str(figure) for figure in attrs.astuple(shape)]
    command = [sys.executable, "-m", "bench.trees", str(store), *figures, *(["loose"] if store.exists() else [])]
    # Not in this process: the most that a child has resident is told as that of its parent at the least.
    subprocess.run(command, check=True, cwd=CHECKOUT)
    _is_whole(store).touch()
    # What is still to be written of it would be written, and waited for, in the run that is measured.
    os.sync()


def _is_whole(store: Path) -> Path:
    return store.with_name(f"{store.name}.whole")


def _turn(row: Collection, shape: Shape, program: str, store: Path, site: Site) -> Run:
    """One measured run; what a deleting one leaves is looked at."""
    if row.dry:
        return _run(program, store, [_DRY], site)
    _is_whole(store).unlink()
    run = _run(program, store, ["--offline"] if row.offline and program == REGISTRYD else [], site)
    _check(program, store, shape)
    return run


def _check(program: str, store: Path, shape: Shape) -> None:
    """See that a run has left what is needed, and nothing else: as many blobs, with the same names as before."""
    told = blobs_in(str(store))
    names = subprocess.run(
        [sys.executable, "-m", "bench.trees", "kept", *map(str, attrs.astuple(shape))],
        check=True,
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout.strip()
    if told != (shape.kept, names):
        raise ServerError(f"{program} left {told[0]} blobs instead of {shape.kept}, or others")


def _run(program: str, store: Path, options: Sequence[str], site: Site) -> Run:
    """One run of a collector on all CPUs, those that servers and those that their load are measured on.

    Errors:
        ServerError: it is not installed, or failed.
    """
    config = store.with_name(f"{store.name}.yml")
    config.write_text(_CONFIG.format(store=store))
    command = [*_COMMANDS[program], *options, str(config)]
    if shutil.which(command[0]) is None:
        raise ServerError(f"{command[0]} is not installed")
    everywhere = ",".join(map(str, sorted(site.server_cpus | os.sched_getaffinity(0))))
    log = store.with_name(f"{store.name}.log")
    with log.open("wb") as out:
        start = time.monotonic()
        process = subprocess.Popen(
            ["taskset", "--cpu-list", everywhere, *command],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment(),
            cwd=CHECKOUT,
        )
        with _Memory.watched(process.pid) as memory:
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.monotonic() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ServerError(f"{program}: exit code {process.returncode}: {log.read_text(errors='replace')[-2000:]}")
    return Run(wall, usage.ru_utime + usage.ru_stime, memory.peak)


@attrs.define
class _Memory:
    """What a process and its children have resident, shared pages in parts; sampled, by a thread."""

    pid: int
    peak: float = attrs.field(default=0.0, init=False)
    _ended: Event = attrs.field(factory=Event, init=False)

    @classmethod
    @contextmanager
    def watched(cls, pid: int) -> Iterator[_Memory]:
        memory = cls(pid)
        thread = Thread(target=memory._watch)
        thread.start()
        try:
            yield memory
        finally:
            memory._ended.set()
            thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_SAMPLED):
            self.peak = max(self.peak, sum(map(_resident, [self.pid, *_children(self.pid)])))


def _children(pid: int) -> Iterator[int]:
    with suppress(OSError):
        yield from map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def _resident(pid: int) -> float:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return float(line.split()[1]) * 1024
    return 0.0


_CONFIG = """\
version: 0.1
log: {{level: error}}
storage:
  filesystem: {{rootdirectory: {store}}}
  delete: {{enabled: true}}
http: {{addr: 127.0.0.1:0}}
"""


def collections_table(results: Sequence[Collected]) -> Iterator[str]:
    """The lines of the table, a row each, then why some were not measured."""
    columns = ["collector", "blobs (garbage)"]
    columns += [f"{program} {what}" for program in _BOTH for what in ("wall s", "CPU s", "peak MB")]
    columns += ["wall ratio", "CPU ratio", "target", "met"]
    yield _line(columns)
    yield _line(["---", *(["---:"] * 9), "---", "---"])
    for result in results:
        yield _line(_cells(result))
    for result in results:
        if result.failure is not None:
            yield ""
            yield f"{result.row.title}: {' '.join(result.failure.split())[:500]}"


def _cells(result: Collected) -> Iterator[str]:
    yield result.row.title
    yield f"{result.shape.blobs:,} ({result.shape.loose:,})"
    for program in _BOTH:
        for of, text in ((_wall, "{:.2f}"), (_cpu, "{:.2f}"), (_peak_megabytes, "{:.0f}")):
            yield text.format(result.median(program, of)) if result.runs.get(program) else "-"
    for ratio in (result.ratio(_wall), result.ratio(_cpu)):
        yield "-" if ratio is None else f"{ratio:.2f}"
    yield _target_text(result)
    yield {True: "yes", False: "**no**", None: "-"}[result.met()]


def _peak_megabytes(run: Run) -> float:
    return run.peak / 1e6


def _target_text(result: Collected) -> str:
    asked = [("wall", result.row.wall), ("CPU", result.row.cpu)]
    parts = [f"{name} ≤ {limit:.2f} of docker-registry" for name, limit in asked if limit is not None]
    return ", ".join([*parts, f"< {result.most / 1e6:.0f} MB"])


def _line(cells: Iterator[str] | Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def collected_text(result: Collected) -> str:
    """The runs of each program in a line."""
    parts = []
    for program, runs in result.runs.items():
        each = ", ".join(f"{run.wall:.2f} s ({run.cpu:.2f} CPU, {run.peak / 1e6:.0f} MB)" for run in runs)
        parts.append(f"{program} {each}")
    return f"{result.row.key}: {'; '.join(parts) or result.failure}"
