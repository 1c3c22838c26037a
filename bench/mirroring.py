"""The mirror's rows: pulls through a mirror of a docker-registry, beside one of docker-registry, and direct ones."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

from bench.machine import claim_memory
from bench.measure import Site
from bench.servers import CHECKOUT, DISTRIBUTION, NGINX, REGISTRYD, Place, Server, ServerError, running
from bench.stores import GIB, MIB, blob_folder

CLIENTS = 32
WARM_PULLS = 8
DIRECT = "direct"
_REPOSITORY = "large/mirrored"
_PRIVATE = "private/large"
_SECONDS = 600.0
_BOTH = (REGISTRYD, DISTRIBUTION)


@attrs.frozen
class Pull:
    """One turn: seconds of wall time, seconds until the first byte, the server's CPU seconds, fetches from upstream."""

    wall: float
    first: float
    cpu: float
    fetches: int


Turns = Mapping[str, Sequence[Pull]]


@attrs.frozen
class Figure:
    """A line of the table: a figure of each program's turns, and what registryd's is to be, as a text and a test."""

    title: str
    of: Callable[[Turns, str], float]
    digits: int = 2
    target: str = "-"
    within: Callable[[float], bool] | None = None


@attrs.frozen
class Mirroring:
    """A row: what is pulled through a mirror, by how many clients, and what is told of it.

    ``size`` and ``rounds`` have a long and a short form. ``warm``: what is pulled is cached before. ``line``: the bytes
    a second that the upstream's line carries; 0 is no bound.
    """

    key: str
    title: str
    clients: int
    size: tuple[int, int]
    rounds: tuple[int, int]
    programs: Sequence[str]
    figures: Sequence[Figure]
    warm: bool = False
    line: int = 0


def _median(turns: Sequence[Pull], of: Callable[[Pull], float]) -> float:
    return statistics.median(map(of, turns))


def _wall(turns: Turns, program: str) -> float:
    return _median(turns[program], lambda pull: pull.wall)


def _cpu(turns: Turns, program: str) -> float:
    return _median(turns[program], lambda pull: pull.cpu)


def _most_fetches(turns: Turns, program: str) -> float:
    return max(pull.fetches for pull in turns[program])


def _throughput(turns: Turns, program: str) -> float:
    return _wall(turns, DIRECT) / _wall(turns, program)


def _first(turns: Turns, program: str) -> float:
    return 1000 * _median(turns[program], lambda pull: pull.first)


def _first_beside(turns: Turns, program: str) -> float:
    return _first(turns, program) - _first(turns, DIRECT)


def _cpu_of_private(turns: Turns, program: str) -> float:
    return _cpu(turns, program) / _cpu(turns, _PRIVATE)


def _wall_of_private(turns: Turns, program: str) -> float:
    return _wall(turns, program) / _wall(turns, _PRIVATE)


MIRRORINGS: Sequence[Mirroring] = (
    Mirroring(
        "mirror-many",
        f"{CLIENTS} clients on one cold blob",
        CLIENTS,
        (256 * MIB, 256 * MIB),
        (3, 1),
        _BOTH,
        (
            Figure("fetches from the upstream", _most_fetches, 0, "1", lambda fetches: fetches == 1),
            Figure("CPU s", _cpu),
            Figure("wall s", _wall),
        ),
    ),
    Mirroring(
        "mirror-cold",
        "one cold pull",
        1,
        (GIB, 256 * MIB),
        (9, 3),
        _BOTH,
        (
            Figure("throughput, of a direct pull's", _throughput, 2, "≥ 0.85", lambda part: part >= 0.85),
            Figure("first byte, ms", _first, 1),
            Figure("first byte, ms later than in a direct pull", _first_beside, 1),
            Figure("CPU s", _cpu),
            Figure("wall s", _wall),
        ),
    ),
    Mirroring(
        "mirror-line",
        "one cold pull over a line of 1 Gbit/s",
        1,
        (256 * MIB, 256 * MIB),
        (3, 1),
        _BOTH,
        (
            Figure("throughput, of a direct pull's", _throughput, 2, "≥ 0.85", lambda part: part >= 0.85),
            Figure("first byte, ms later than in a direct pull", _first_beside, 1),
        ),
        line=125_000_000,
    ),
    Mirroring(
        "mirror-warm",
        "one warm pull",
        1,
        (GIB, GIB),
        (5, 3),
        (REGISTRYD,),
        (
            Figure("CPU, of a private blob's", _cpu_of_private, 2, "≤ 1.10", lambda part: part <= 1.1),
            Figure("wall, of a private blob's", _wall_of_private),
        ),
        warm=True,
    ),
)


@attrs.frozen
class Mirrored:
    """What a row gave: the turns of each program, and of direct or private pulls; or why there are none."""

    row: Mirroring
    size: int
    turns: Turns
    failure: str | None = None

    def value(self, figure: Figure, program: str) -> float | None:
        return figure.of(self.turns, program) if self.turns.get(program) else None

    def met(self, figure: Figure) -> bool | None:
        value = self.value(figure, REGISTRYD)
        return None if figure.within is None or value is None else figure.within(round(value, figure.digits))


def mirroring_named(key: str) -> Mirroring | None:
    """The row of a key, if it is one of these."""
    return next((row for row in MIRRORINGS if row.key == key), None)


def pull_mirrored(row: Mirroring, quick: bool, site: Site, programs: Sequence[str]) -> Mirrored:
    """Start an upstream on the load's CPUs, and measure a row's programs by turns, each with an empty cache."""
    size, folder = row.size[quick], site.folder / "mirroring"
    turns: dict[str, list[Pull]] = {}
    try:
        digest = write_blob(folder / "upstream" / "store", _REPOSITORY, size)
        with _upstream(row, folder) as (upstream, reached):
            for _ in range(row.rounds[quick]):
                for name, pull in _turn(row, site, upstream, reached, digest, size, programs):
                    turns.setdefault(name, []).append(pull)
        return Mirrored(row, size, turns)
    except (ServerError, OSError, subprocess.SubprocessError) as error:
        return Mirrored(row, size, {}, f"{type(error).__name__}: {error}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _upstream(row: Mirroring, folder: Path) -> Iterator[tuple[Server, Server]]:
    """The upstream, and what it is reached by: itself, or a line that carries so many bytes a second."""
    load = os.sched_getaffinity(0)
    with running(DISTRIBUTION, Place(folder / "upstream", folder / "upstream" / "store"), load) as upstream:
        if not row.line:
            yield upstream, upstream
            return
        place = Place(folder / "line", folder / "line" / "store", upstream=upstream.url, rate=row.line)
        with running(NGINX, place, load) as line:
            yield upstream, line


def _turn(
    row: Mirroring,
    site: Site,
    upstream: Server,
    reached: Server,
    digest: str,
    size: int,
    programs: Sequence[str],
) -> Iterator[tuple[str, Pull]]:
    """A turn of each program; ``reached`` is what they, and direct pulls, reach the upstream by."""
    target = f"/v2/{_REPOSITORY}/blobs/{digest}"
    if row.clients == 1 and not row.warm:
        yield DIRECT, _measured(reached, upstream, target, digest, 1)
    for program in programs:
        if program not in row.programs:
            continue
        folder = site.folder / "mirroring" / program
        shutil.rmtree(folder, ignore_errors=True)
        place = Place(folder / "run", folder / "store", upstream=reached.url)
        private = write_blob(place.store, _PRIVATE, size, seed="private") if row.warm else ""
        with running(program, place, site.server_cpus) as server:
            if row.warm:
                beside = f"/v2/{_PRIVATE}/blobs/{private}"
                _measured(server, upstream, target, digest, 1)
                _measured(server, upstream, beside, private, 1)
                yield _PRIVATE, _measured(server, upstream, beside, private, 1, WARM_PULLS)
            pulls = WARM_PULLS if row.warm else 1
            if not row.warm:
                claim_memory(site.folder, size + size // 4)
            yield program, _measured(server, upstream, target, digest, row.clients, pulls)


def _measured(server: Server, upstream: Server, target: str, digest: str, clients: int, pulls: int = 1) -> Pull:
    """One turn, to the end of what the server does for it: until the blob has its place."""
    fetched, cpu = _fetches(upstream, target), server.cpu_seconds()
    how = ["--clients", str(clients)] if clients > 1 else ["--digest", digest] if pulls == 1 else []
    command = [sys.executable, "-m", "bench.pull", *how, server.address, target, str(pulls)]
    told = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=_SECONDS, cwd=CHECKOUT).stdout.split()
    if server.name != NGINX:
        _await(lambda: (blob_folder(server, digest) / "data").exists())
    # What a server still does after its last answer (closing, logging) belongs to the work.
    time.sleep(0.2)
    used = server.cpu_seconds() - cpu
    return Pull(float(told[0]) / pulls, float(told[1]), used / pulls, _fetches(upstream, target) - fetched)


def _await(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            raise ServerError("a blob was pulled and not stored within a minute")
        time.sleep(0.01)


def _fetches(upstream: Server, target: str) -> int:
    """How many GETs of a blob the upstream's access log tells of."""
    return (upstream.place.folder / "stdout").read_text().count(f'"GET {target} HTTP/1.1" 20')


def write_blob(store: Path, repository: str, size: int, seed: str = "mirrored") -> str:
    """Write a blob into a store, as a registry keeps it; its digest."""
    seeded = random.Random(seed)
    repeated, hashed = seeded.randbytes(MIB), hashlib.sha256()
    root = store / "docker/registry/v2"
    root.mkdir(parents=True, exist_ok=True)
    with open(root / "content", "wb") as file:
        for _ in range(size // MIB - 1):
            file.write(repeated)
            hashed.update(repeated)
        end = seeded.randbytes(MIB)
        file.write(end)
        hashed.update(end)
    value = hashed.hexdigest()
    blob = root / "blobs/sha256" / value[:2] / value
    link = root / "repositories" / repository / "_layers/sha256" / value
    for folder in (blob, link, root / "repositories" / repository / "_manifests"):
        folder.mkdir(parents=True, exist_ok=True)
    (root / "content").rename(blob / "data")
    (link / "link").write_text(f"sha256:{value}")
    return f"sha256:{value}"


def mirroring_table(results: Sequence[Mirrored]) -> Iterator[str]:
    """The lines of the table, one a figure, then why some were not measured."""
    yield f"| mirror of a docker-registry | figure | {' | '.join(_BOTH)} | target | met |"
    yield "| --- | --- | ---: | ---: | --- | --- |"
    for result in results:
        for figure in result.row.figures:
            values = [result.value(figure, program) for program in _BOTH]
            told = ["-" if value is None else f"{value:.{figure.digits}f}" for value in values]
            met = {True: "yes", False: "**no**", None: "-"}[result.met(figure)]
            title = f"{result.row.title} of {result.size // MIB} MiB"
            yield f"| {title} | {figure.title} | {' | '.join(told)} | {figure.target} | {met} |"
    for result in results:
        if result.failure is not None:
            yield ""
            yield f"{result.row.title}: {' '.join(result.failure.split())[:500]}"


def mirrored_text(result: Mirrored) -> str:
    """The turns of each program in a line."""
    parts = []
    for program, turns in result.turns.items():
        each = ", ".join(f"{turn.wall:.2f} s ({turn.cpu:.2f} CPU, {turn.fetches} fetched)" for turn in turns)
        parts.append(f"{program} {each}")
    return f"{result.row.key}: {'; '.join(parts) or result.failure}"
