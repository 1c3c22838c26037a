"""The ``registryd`` command, for people who come from ``registry serve``."""

from __future__ import annotations

import click
from twisted.logger import globalLogBeginner

from registryd.daemon import StartError
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
