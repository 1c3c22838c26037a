"""`python -m bench` measures and prints the table; `python -m bench profile ROW` shows where a row's time goes."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.collecting import COLLECTIONS, Collected, collect, collected_text, collection_named, collections_table
from bench.machine import describe, split_cpus
from bench.measure import FULL, QUICK, Result, Site, measure
from bench.mirroring import MIRRORINGS, Mirrored, mirrored_text, mirroring_named, mirroring_table, pull_mirrored
from bench.profile import profile, summary
from bench.report import plan_text, spread_text, table, write_block
from bench.rows import ROWS, row_named
from bench.servers import PROGRAMS, ServerError

_DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "performance.md"


def main() -> int:
    """Run the command line; the exit code is 1 if something could not be measured, whatever the figures are."""
    options = _parser().parse_args()
    server_cpus, load_cpus = split_cpus()
    os.sched_setaffinity(0, load_cpus)
    if server_cpus == load_cpus:
        _tell("there is one CPU only: servers and load share it")
    with tempfile.TemporaryDirectory(prefix="registryd-bench-", dir=options.dir) as folder:
        site = Site(Path(folder), server_cpus)
        return _profile(options, site) if options.command == "profile" else _compare(options, site)


def _parser() -> argparse.ArgumentParser:
    keys = [row.key for row in ROWS]
    all_keys = [*keys, *(row.key for row in COLLECTIONS), *(row.key for row in MIRRORINGS)]
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, epilog=f"rows: {' '.join(all_keys)}")
    parser.add_argument("--dir", help="where to make the stores, which need 8 GiB (default: where temporary files go)")
    parser.add_argument("--quick", action="store_true", help="a few seconds a row, for a first look")
    parser.add_argument("--rows", nargs="+", choices=all_keys, default=all_keys, metavar="ROW", help="only these")
    parser.add_argument("--servers", nargs="+", choices=PROGRAMS, default=list(PROGRAMS), help="only these")
    parser.add_argument("--write", action="store_true", help="also put the table into docs/performance.md")
    commands = parser.add_subparsers(dest="command")
    profiled = commands.add_parser("profile", help="show where registryd spends its time in a row")
    profiled.add_argument("row", choices=keys)
    profiled.add_argument("--seconds", type=int, default=10, help="how long to watch (default: 10)")
    profiled.add_argument("--native", action="store_true", help="also see functions of C extensions")
    profiled.add_argument("--top", type=int, default=15, help="how many functions to print (default: 15)")
    profiled.add_argument("--output", type=Path, help="keep the stacks here, as flame graph tools read them")
    return parser


def _compare(options: argparse.Namespace, site: Site) -> int:
    results, collected, mirrored = _measured(options, site), _collected(options, site), _mirrored(options, site)
    plan = QUICK if options.quick else FULL
    lines = [*_list(describe(site.folder)), f"* {plan_text(plan)}", ""]
    lines += [*table(results), ""] if results else []
    lines += [*collections_table(collected), ""] if collected else []
    lines += mirroring_table(mirrored) if mirrored else []
    print("\n".join(lines))
    if options.write:
        write_block(_DOCUMENT, lines)
    return 1 if _failed(results, [*collected, *mirrored]) else 0


def _measured(options: argparse.Namespace, site: Site) -> Sequence[Result]:
    results = []
    for row in [row_named(key) for key in options.rows if key in {row.key for row in ROWS}]:
        _tell(f"measuring {row.title}")
        names = [name for name in row.servers if name in options.servers]
        results.append(measure(row, QUICK if options.quick else FULL, site, names))
        _tell(spread_text(results[-1]))
    return results


def _collected(options: argparse.Namespace, site: Site) -> Sequence[Collected]:
    results = []
    for row in filter(None, map(collection_named, options.rows)):
        _tell(f"measuring the collector's {row.title}, {row.shape(options.quick).blobs:,} blobs")
        results.append(collect(row, options.quick, site, options.servers))
        _tell(collected_text(results[-1]))
    return results


def _mirrored(options: argparse.Namespace, site: Site) -> Sequence[Mirrored]:
    results = []
    for row in filter(None, map(mirroring_named, options.rows)):
        _tell(f"measuring the mirror's {row.title}")
        results.append(pull_mirrored(row, options.quick, site, options.servers))
        _tell(mirrored_text(results[-1]))
    return results


def _list(lines: Sequence[str]) -> list[str]:
    return [f"* {line}" for line in lines]


def _failed(results: Sequence[Result], others: Sequence[Collected | Mirrored]) -> bool:
    return any(result.failures for result in results) or any(result.failure for result in others)


def _profile(options: argparse.Namespace, site: Site) -> int:
    output = options.output or site.folder / "stacks"
    try:
        stacks = profile(row_named(options.row), site, options.seconds, options.native, output)
    except ServerError as error:
        _tell(str(error))
        return 1
    print("\n".join(summary(stacks, options.top)))
    return 0


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
