"""The table as Markdown, and its place in a document."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench.measure import Figures, Plan, Result, ratio_to_peer, target_met
from bench.rows import Row
from bench.servers import PROGRAMS

_BEGIN = "<!-- bench: begin -->"
_END = "<!-- bench: end -->"
_FEW_SECONDS = 2.0
_MUCH_ELSE = 0.1


def table(results: Sequence[Result]) -> Iterator[str]:
    """The lines of the table, a row each, then the remarks on them."""
    columns = ["row", "unit", *(f"{name} CPU" for name in PROGRAMS), "ratio", "target", "met"]
    columns += [f"{name} wall" for name in PROGRAMS]
    yield _line(columns)
    yield _line(["---", "---", *(["---:"] * 4), "---", "---", *(["---:"] * 3)])
    for result in results:
        yield _line(_cells(result))
    yield from _remarks(results)


def _cells(result: Result) -> Sequence[str]:
    ratio, met = ratio_to_peer(result), target_met(result)
    return [
        result.row.title,
        result.row.unit.name,
        *_times(result, lambda figures: figures.cpu, _is_short),
        "-" if ratio is None else f"{ratio:.2f}",
        target_text(result.row),
        {True: "yes", False: "**no**", None: "-"}[met],
        *_times(result, lambda figures: figures.wall, lambda figures: False),
    ]


def _times(result: Result, of: Callable[[Figures], float], marked: Callable[[Figures], bool]) -> Iterator[str]:
    for name in PROGRAMS:
        figures = result.figures.get(name)
        if name in result.failures:
            yield "failed"
        elif figures is None:
            yield "-"
        else:
            yield time_text(result.row, of(figures)) + ("*" if marked(figures) else "")


def _is_short(figures: Figures) -> bool:
    return figures.measured < _FEW_SECONDS


def time_text(row: Row, seconds: float) -> str:
    """Seconds a unit of work, as the row tells them."""
    return f"{seconds * row.unit.scale:.{row.unit.digits}f}"


def target_text(row: Row) -> str:
    """What is asked of registryd in a row."""
    if row.target is None:
        return "-"
    limit = f", < {row.target.limit:g} {row.unit.name}" if row.target.limit else ""
    return f"≤ {row.target.ratio:.2f} of {row.target.peer}{limit}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _remarks(results: Sequence[Result]) -> Iterator[str]:
    if any(_is_short(figures) for result in results for figures in result.figures.values()):
        yield ""
        yield f"\\* fewer than {_FEW_SECONDS:g} CPU seconds measured; a tick of the clock is 10 ms."
    disturbed = [
        f"{result.row.title} ({name}: {figures.others:.0%})"
        for result in results
        for name, figures in result.figures.items()
        if figures.others > _MUCH_ELSE
    ]
    if disturbed:
        yield ""
        yield f"Something else was running on the server's CPU, and makes these figures worse: {', '.join(disturbed)}"
    for result in results:
        for name, reason in result.failures.items():
            yield ""
            yield f"{result.row.title}, {name}: {' '.join(reason.split())[:500]}"


def plan_text(plan: Plan) -> str:
    """How the figures were got, in a line."""
    return (
        f"medians of {plan.rounds} turns a server, servers in turn, one process on one CPU each, load on another;"
        f" a turn is {plan.amount.seconds:g} s, or {plan.amount.large} GiB; ratio is of registryd's CPU to that of the"
        " peer that the target names, else to docker-registry's; collectors have all CPUs, and nothing runs beside them"
    )


def spread_text(result: Result) -> str:
    """The least, median and greatest CPU time of each server in a row, in a line."""
    parts = []
    for name, figures in result.figures.items():
        times = [time_text(result.row, seconds) for seconds in (figures.spread[0], figures.cpu, figures.spread[1])]
        parts.append(f"{name} {' / '.join(times)} ({figures.measured:.1f} CPU s, others {figures.others:.0%})")
    return f"{result.row.key} [{result.row.unit.name}]: {'; '.join(parts)}"


def write_block(document: Path, lines: Sequence[str]) -> None:
    """Put lines between a document's two marks, in place of what stands there.

    Errors:
        ValueError: the document has no such marks.
    """
    before, begin, rest = document.read_text().partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{document} has no lines {_BEGIN} and {_END}")
    document.write_text("\n".join([before + begin, *lines, end + after]))
