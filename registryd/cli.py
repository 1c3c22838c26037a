"""The ``registryd`` command, for people who come from ``registry serve``."""

from __future__ import annotations

import os
import sys

import click
from twisted.logger import globalLogBeginner

from registryd.assemble import adoption as adoption_of
from registryd.daemon import StartError
from registryd.storage.configured import UnknownDriverError, make_driver
from registryd.tap import Registries, load_all, standard_observer


@click.group()
@click.version_option(package_name="registryd")
def main() -> None:
    """A container registry."""


@main.command()
@click.argument("configs", metavar="[CONFIG]...", nargs=-1)
def serve(configs: tuple[str, ...]) -> None:
    """Serve the registries of configuration files in the foreground, until SIGTERM or SIGINT."""
    from twisted.internet import reactor

    try:
        loaded = load_all(configs)
        registries = Registries(loaded, reactor)
        globalLogBeginner.beginLoggingTo([standard_observer(loaded[0].log)], redirectStandardIO=False)
        registries.privilegedStartService()
        registries.startService()
    except StartError as error:
        raise SystemExit(f"registryd: {error}") from None
    reactor.addSystemEventTrigger("before", "shutdown", registries.stopService)
    reactor.run()


@main.command("check-config")
@click.argument("configs", metavar="[CONFIG]...", nargs=-1)
def check_config(configs: tuple[str, ...]) -> None:
    """Read configuration files as the daemon would, and tell what is wrong with them."""
    try:
        loaded = load_all(configs)
    except StartError as error:
        raise SystemExit(f"registryd: {error}") from None
    for config in loaded:
        for warning in config.warnings:
            click.echo(warning)
        if config.unbuilt:
            click.echo(f"{config.source}: not supported yet: {', '.join(config.unbuilt)}")
        click.echo(f"{config.source}: can be served")


@main.command(
    "garbage-collect",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True},
    short_help="Remove what nothing needs from a registry's store.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def garbage_collect(arguments: tuple[str, ...]) -> None:
    """Run the collector, with all arguments, as the process that it is by itself: small, and without a reactor."""
    os.execv(sys.executable, [sys.executable, "-m", "registryd_gc", *arguments])


@main.command("adopt-cache")
@click.option("-d", "--dry-run", is_flag=True, help="Tell what would be adopted.")
@click.argument("config", metavar="[CONFIG]", required=False)
def adopt_cache(config: str | None, dry_run: bool) -> None:
    """Take over a cache that another program or another mirror has filled: from now on it is a mirror, and expires."""
    try:
        (loaded,) = load_all([config] if config else [])
        driver = make_driver(loaded)
        adoption = adoption_of(loaded, driver)
        if adoption is None:
            raise StartError(f"{loaded.source}: proxy: nothing is mirrored")
        driver.lock(False)
        for adopted in adoption.planned():
            moved = f"{adopted.before} -> {adopted.name}" if adopted.name != adopted.before else adopted.name
            marked = f", so far of {adopted.marked}" if adopted.marked is not None else ""
            click.echo(f"{moved}: a mirror of {adopted.upstream}{marked}")
            if not dry_run:
                adoption.adopt(adopted)
    except (StartError, UnknownDriverError) as error:
        raise SystemExit(f"registryd: {error}") from None
    except OSError as error:
        raise SystemExit(f"registryd: {error.filename or loaded.storage.rootdirectory}: {error.strerror}") from None
