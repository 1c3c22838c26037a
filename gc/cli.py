"""The ``registryd-gc`` command."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from registryd.config import Config, ConfigError, load
from registryd.globs import Globs
from registryd.storage.configured import UnknownDriverError, make_driver
from registryd.storage.interfaces import IStorageDriver
from registryd_gc.collect import CollectError, Options, collect, held
from registryd_gc.console import Console, printable, summary, verified_summary
from registryd_gc.duration import duration, size
from registryd_gc.reading import Pace
from registryd_gc.trash import put_back, runs
from registryd_gc.verify import Verification

FAILED = 1
DAMAGED = 3

WORKERS = 6
"""Processes that collect, also where there are fewer processors: half of it is waiting for the disk."""


_FLAG = re.compile(r"(--[a-z-]+|-[a-zA-Z])=(?:(1|t|T|true|TRUE|True)|(?:0|f|F|false|FALSE|False))")
"""A flag with a truth value, as Distribution's command takes it."""


def _without_values(args: Sequence[str], flags: Mapping[str, Sequence[str]]) -> list[str]:
    """Arguments in which each flag that is given as true stands alone, and none that is given as false after that.

    ``flags`` tells all names of a flag by each of them.
    """
    found: list[str] = []
    for place, argument in enumerate(args):
        if argument == "--":
            return [*found, *args[place:]]
        match = _FLAG.fullmatch(argument)
        if match is None or match[1] not in flags:
            found.append(argument)
        elif match[2]:
            found.append(match[1])
        else:
            found = [other for other in found if other not in flags[match[1]]]
    return found


class Commands(click.Group):
    """A group whose first command runs where none is named, as in Distribution's ``garbage-collect CONFIG``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options = [option for command in self.commands.values() for option in command.params]
        flags = {name: option.opts for option in options if getattr(option, "is_flag", False) for name in option.opts}
        args = _without_values(args, flags)
        if not args or args[0] not in self.commands:
            args = ["collect", *args]
        return super().parse_args(ctx, args)


@click.group(cls=Commands)
def commands() -> None:
    """Collect what nothing in a registry's store needs."""


@commands.command("collect", epilog="Other commands: verify, restore. Each has its own --help.")
@click.argument("config", required=False)
@click.option("-d", "--dry-run", is_flag=True, help="Tell what would go; remove nothing.")
@click.option("-m", "--delete-untagged", is_flag=True, help="Remove manifests that no tag, index or subject needs.")
@click.option("-q", "--quiet", is_flag=True, help="Tell nothing but failures and damage.")
@click.option(
    "--grace",
    metavar="DURATION",
    callback=duration,
    help="Leave what is younger; gc.grace of the configuration unless given.",
)
@click.option("--offline", is_flag=True, help="Nothing writes to the store: grace 0. Refused while a daemon runs.")
@click.option("--repository", "repositories", metavar="GLOB", multiple=True, help="Only from these; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Tell the numbers as one JSON document.")
@click.option("--expired-only", is_flag=True, help="Remove only what is cached of upstreams and has expired.")
@click.option("--evict", is_flag=True, help="With --expired-only: make room in the cache, least recently used first.")
@click.option("--repair", is_flag=True, help="Mend what is found damaged, where that can be.")
def collect_command(config: str | None, quiet: bool, as_json: bool, **flags: Any) -> None:
    """Remove what nothing needs from the store of a registry, while it runs or not.

    CONFIG is the daemon's configuration file; without it that which REGISTRY_CONFIGURATION_PATH names.
    """
    loaded = load(config, os.environ)
    options = _options(loaded, **flags)
    driver = _driver(loaded)
    console = Console(quiet, as_json)
    if not options.offline and options.grace < loaded.collection.grace:
        console.noted(
            f"the grace of {options.grace:g}s is shorter than gc.grace, {loaded.collection.grace:g}s, which daemons"
            " rely on: a push that takes longer may be damaged"
        )
    with console:
        report = collect(driver, loaded, options, console)
    for damage in report.damage:
        click.echo(f"registryd-gc: {printable(str(damage))}", err=True)
    if as_json:
        click.echo(json.dumps(report.document()))
    elif not quiet:
        click.echo(summary(report))
    sys.exit(DAMAGED if report.damage else 0)


def _options(
    config: Config,
    dry_run: bool,
    delete_untagged: bool,
    grace: float | None,
    offline: bool,
    repositories: tuple[str, ...],
    expired_only: bool,
    evict: bool,
    repair: bool,
) -> Options:
    if offline and grace:
        raise click.UsageError("--offline means a grace of 0: leave --grace out")
    if evict and not expired_only:
        raise click.UsageError("--evict needs --expired-only")
    if repair and dry_run:
        raise click.UsageError("--repair changes the store: leave --dry-run out")
    if grace is None:
        grace = 0.0 if offline else config.collection.grace
    if not grace and not offline and not dry_run:
        raise CollectError("a grace of 0 needs --offline: beside a running daemon it would damage pushes")
    return Options(
        grace=grace,
        dry_run=dry_run,
        untagged_go=delete_untagged or config.collection.untagged == "delete",
        offline=offline,
        repositories=Globs(repositories) if repositories else None,
        expired_only=expired_only,
        evict=evict,
        repair=repair,
        workers=WORKERS,
    )


@commands.command()
@click.argument("config", required=False)
@click.option("--repair", is_flag=True, help="Mend what is found damaged, where that can be.")
@click.option("--rate", metavar="SIZE", callback=size, help="Read no more than so many bytes a second, as 50MB.")
@click.option("--restart", is_flag=True, help="Begin anew, also where the last one was interrupted.")
@click.option("-q", "--quiet", is_flag=True, help="Tell nothing but failures and damage.")
@click.option("--json", "as_json", is_flag=True, help="Tell what was found as one JSON document.")
def verify(config: str | None, repair: bool, rate: int | None, restart: bool, quiet: bool, as_json: bool) -> None:
    """Read everything that a registry has stored, while it runs or not, and tell what is damaged.

    CONFIG is the daemon's configuration file; without it that which REGISTRY_CONFIGURATION_PATH names.
    """
    loaded = load(config, os.environ)
    with Console(quiet, as_json, "verifying") as console:
        verified = Verification(_driver(loaded), loaded, console, repair, restart, Pace(rate)).run()
    if as_json:
        click.echo(json.dumps(verified.document()))
    elif not quiet:
        click.echo(verified_summary(verified))
    sys.exit(DAMAGED if verified.damage else 0)


@commands.command()
@click.argument("run")
@click.argument("config", required=False)
def restore(run: str, config: str | None) -> None:
    """Put back what a run has set aside, while gc.trash keeps it. RUN is the name that its summary tells."""
    driver = _driver(load(config, os.environ))
    with held(driver, False, False, Console(False, False)):
        if run not in dict(runs(driver)):
            known = ", ".join(sorted(dict(runs(driver)))) or "none"
            raise CollectError(f"no such run in the trash: {run} (there are: {known})")
        click.echo(f"{put_back(driver, run, renew=True)} files put back")


def _driver(config: Config) -> IStorageDriver:
    if config.storage.driver == "inmemory":
        raise CollectError(f"{config.source}: storage.inmemory: no other process can see that store")
    return make_driver(config)


def main() -> None:
    """Run the command; a failure is one line and exit code 1."""
    # A run makes millions of objects and no cycles: looking for them takes a tenth of its time. (Not by an import
    # statement: tools that read the checkout take this package's folder for the module.)
    import_module("gc").disable()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        commands(prog_name="registryd-gc", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(FAILED)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted: the store is whole, and the next run goes on")
    except (ConfigError, UnknownDriverError, CollectError) as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"failed: {printable(str(error))}; the store is whole, and the next run goes on")


def _fail(line: str) -> NoReturn:
    click.echo(f"registryd-gc: {line}", err=True)
    sys.exit(FAILED)
