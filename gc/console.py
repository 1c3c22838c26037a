"""What people see of a run: each thing as it goes, a bar of progress on a terminal, and the summary."""

from __future__ import annotations

import sys
from io import TextIOWrapper
from types import TracebackType
from typing import Any

import click

from registryd_gc.report import Mirror, Report, Verified

_CLEAR = "\r\x1b[K"


class Console:
    """A listener that writes what goes to standard output, and all else to standard error.

    ``quiet`` writes nothing but what the operator should know; ``as_json`` leaves standard output to a document. The
    bar says what it is ``doing``.
    """

    def __init__(self, quiet: bool, as_json: bool, doing: str = "collecting") -> None:
        self._doing = doing
        # There is none where it was closed before the start.
        self._tells = not (quiet or as_json) and sys.stdout is not None
        self._shows_bar = self._tells and sys.stderr is not None and sys.stderr.isatty()
        if isinstance(sys.stdout, TextIOWrapper):
            # Not every terminal can show every letter that a name in the store may have.
            sys.stdout.reconfigure(errors="backslashreplace")
        self._clears = self._shows_bar and sys.stdout.isatty()
        self._bar: Any = None

    def __enter__(self) -> Console:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.__exit__(kind, error, traceback)
        # Who was interrupted while nobody read does not wait for that again.
        if kind is None and sys.stdout is not None:
            sys.stdout.flush()

    def removed(self, what: str) -> None:
        if self._tells:
            if self._clears:
                sys.stdout.write(_CLEAR)
            # Not click.echo, which flushes each line: there may be a million.
            sys.stdout.write(f"{printable(what)}\n")

    def explained(self, what: str) -> None:
        self.removed(what)

    def noted(self, what: str) -> None:
        click.echo(f"{_CLEAR if self._bar is not None else ''}registryd-gc: {printable(what)}", err=True)

    def began(self, steps: int) -> None:
        if self._shows_bar and steps:
            # A step may be a byte: a bar has no more than a thousand places.
            seldom = max(1, steps // 1000)
            bar = click.progressbar(length=steps, label=self._doing, file=sys.stderr, update_min_steps=seldom)
            self._bar = bar.__enter__()

    def stepped(self, steps: int = 1) -> None:
        if self._bar is not None:
            self._bar.update(steps)


def printable(line: str) -> str:
    """A line in which what is no letter, as a control character in the name of a folder, is escaped."""
    if line.isprintable():
        return line
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in line)


def summary(report: Report) -> str:
    """A run in a few lines for people."""
    blobs = report.blobs
    verb = "would go" if report.dry_run else "removed"
    kept, gone = size(blobs.kept_bytes), size(blobs.removed_bytes)
    lines = [
        f"repositories  {report.repositories.kept} kept, {report.repositories.removed} {verb}",
        f"tags          {report.tags.kept} kept, {report.tags.removed} {verb}",
        f"manifests     {report.manifests.kept} kept, {report.manifests.removed} {verb}",
    ]
    if report.manifests.young:
        lines.append(f"              {report.manifests.young} of the kept are not needed, but too young to go")
    lines.append(f"blobs         {blobs.kept} kept ({kept}), {blobs.removed} {verb} ({gone})")
    if blobs.young:
        young = size(blobs.young_bytes)
        lines.append(f"              {blobs.young} of the kept ({young}) are not needed, but too young to go")
    lines.append(
        f"also          {report.links.removed} layer links, {report.history.removed} entries of tags' histories,"
        f" {report.referrers.removed} of referrers, {report.uploads.removed} uploads"
        f" ({size(report.uploads.removed_bytes)}), {report.temporary.removed} temporary files {verb}"
    )
    if report.mirror != Mirror():
        mirror = report.mirror
        lines.append(
            f"mirrored      {size(mirror.bytes)} kept, {mirror.manifests_expired} manifests expired"
            f" ({size(mirror.expired_bytes)}), {mirror.manifests_evicted} evicted ({size(mirror.evicted_bytes)})"
        )
    if report.trash.restored or report.trash.removed:
        lines.append(f"trash         {report.trash.restored} put back, {report.trash.removed} removed for good")
    if report.damage:
        lines.append(f"damage        {len(report.damage)} found, {sum(one.repaired for one in report.damage)} repaired")
    lines.append(f"run {report.run}: {report.seconds:.1f} seconds")
    return "\n".join(lines)


def verified_summary(verified: Verified) -> str:
    """A verification in a few lines for people."""
    blobs, mended = verified.blobs, sum(one.repaired for one in verified.damage)
    lines = [
        f"blobs         {blobs.read} read ({size(blobs.bytes)}), {blobs.vanished} removed meanwhile",
        f"repositories  {verified.repositories} read",
    ]
    if verified.referrers.missing:
        lines.append(
            f"referrers     {verified.referrers.missing} entries missing, {verified.referrers.written} written"
        )
    lines.append(
        f"damage        {len(verified.damage)} found, {mended} repaired" if verified.damage else "damage        none"
    )
    lines.append(f"{verified.seconds:.1f} seconds")
    return "\n".join(lines)


def size(count: int) -> str:
    """Bytes as people read them."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
