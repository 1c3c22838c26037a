"""Measuring a row: its servers side by side, in turns, each on one CPU while the load is on the others."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from subprocess import SubprocessError

import attrs

from bench.certificate import write_certificate
from bench.client import AnswerError
from bench.loads import Amount, Load
from bench.rows import Row
from bench.servers import REGISTRYD, Place, Server, ServerError, running

# What a server still does after its last answer (closing, logging) belongs to the work.
_SETTLING = 0.1
_WARMING_UP = Amount(seconds=1.0, large=1)


@attrs.frozen
class Plan:
    """How often, and how much at a time, each server of a row is measured."""

    rounds: int
    amount: Amount


FULL = Plan(5, Amount(seconds=4.0, large=4))
QUICK = Plan(3, Amount(seconds=2.0, large=1))


@attrs.frozen
class Sample:
    """One turn of one server: the units of work done, and the seconds of CPU and of wall time that they took.

    ``others`` is the part of the turn's time that the server's CPU spent on anything else.
    """

    units: float
    cpu: float
    wall: float
    others: float


@attrs.frozen
class Figures:
    """The turns of a server in one row, seconds of CPU and wall time being medians of a unit of work."""

    samples: Sequence[Sample]

    @property
    def cpu(self) -> float:
        return statistics.median(sample.cpu / sample.units for sample in self.samples)

    @property
    def wall(self) -> float:
        return statistics.median(sample.wall / sample.units for sample in self.samples)

    @property
    def spread(self) -> tuple[float, float]:
        """The least and the greatest CPU seconds of a unit of work."""
        each = [sample.cpu / sample.units for sample in self.samples]
        return min(each), max(each)

    @property
    def others(self) -> float:
        """The part of the time that others had the server's CPU: where it is large, the figures are worth little."""
        return statistics.median(sample.others for sample in self.samples)

    @property
    def measured(self) -> float:
        """All CPU seconds measured; a tick of 10 ms a turn is their uncertainty."""
        return sum(sample.cpu for sample in self.samples)


@attrs.frozen
class Result:
    """What a row gave: figures of each server that could be measured, and why the others could not."""

    row: Row
    figures: Mapping[str, Figures]
    failures: Mapping[str, str]


@attrs.frozen
class Site:
    """A folder for everything that a run needs, and the CPUs that the servers run on."""

    folder: Path
    server_cpus: set[int]

    def place(self, row: Row, name: str) -> Place:
        """Where a server of a row works; its store stays from row to row, a written one is shared by the servers."""
        store = self.folder / "written" if row.write_store else self.folder / name / "store"
        place = Place(self.folder / name / "run", store)
        if not row.tls:
            return place
        return attrs.evolve(place, certificate=self.folder / "certificate.pem", key=self.folder / "key.pem")

    def prepare(self, row: Row) -> None:
        """Make what the servers of a row need before they start."""
        if row.write_store:
            row.write_store(self.folder / "written")
        if row.tls:
            write_certificate(self.folder / "certificate.pem", self.folder / "key.pem")


def measure(row: Row, plan: Plan, site: Site, names: Sequence[str]) -> Result:
    """Start a row's servers and measure them by turns; one that fails is left out from then on."""
    site.prepare(row)
    samples: dict[str, list[Sample]] = {}
    failures: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        loads: dict[str, tuple[Server, Load]] = {}
        for name in names:
            with _told(failures, name):
                server = stack.enter_context(running(name, site.place(row, name), site.server_cpus))
                load = row.prepare(server)
                load(_WARMING_UP)
                loads[name] = server, load
        for _ in range(plan.rounds):
            for name, (server, load) in loads.items():
                if name not in failures:
                    with _told(failures, name):
                        samples.setdefault(name, []).append(_sample(server, load, plan.amount))
    return Result(row, {name: Figures(each) for name, each in samples.items() if name not in failures}, failures)


_FAILURES = (ServerError, AnswerError, OSError, HTTPException, SubprocessError, ValueError, LookupError)


@contextlib.contextmanager
def _told(failures: dict[str, str], name: str) -> Iterator[None]:
    try:
        yield
    except _FAILURES as error:
        failures[name] = f"{type(error).__name__}: {error}"


def _sample(server: Server, load: Load, amount: Amount) -> Sample:
    start, cpu, others = time.monotonic(), server.cpu_seconds(), server.others_seconds()
    work = load(amount)
    time.sleep(_SETTLING)
    took = time.monotonic() - start
    return Sample(work.units, server.cpu_seconds() - cpu, work.wall, (server.others_seconds() - others) / took)


def target_met(result: Result) -> bool | None:
    """Whether registryd reaches the row's target; None where there is none, or not both sides were measured."""
    target = result.row.target
    ratio = ratio_to_peer(result)
    if target is None or ratio is None:
        return None
    within = target.limit is None or result.figures[REGISTRYD].cpu * result.row.unit.scale < target.limit
    return ratio <= target.ratio and within


def ratio_to_peer(result: Result) -> float | None:
    """registryd's CPU time over that of the peer that the row's target names, else of the row's first peer."""
    peer = result.row.target.peer if result.row.target else result.row.servers[1]
    if REGISTRYD not in result.figures or peer not in result.figures:
        return None
    return result.figures[REGISTRYD].cpu / result.figures[peer].cpu
