"""Durations and sizes on the command line, written as in the configuration."""

from __future__ import annotations

import click

from registryd.config import scalars
from registryd.config.nodes import Origin, ScalarNode
from registryd.config.scalars import Invalid, not_negative


def duration(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """An option's seconds, from a text as ``90s`` or ``24h``."""
    if value is None:
        return None
    try:
        return not_negative(ScalarNode(Origin("command line"), value))
    except Invalid as error:
        raise click.BadParameter(str(error)) from None


def size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """An option's bytes, from a text as ``50MB`` or ``1GiB``."""
    if value is None:
        return None
    try:
        return scalars.size(ScalarNode(Origin("command line"), value))
    except Invalid as error:
        raise click.BadParameter(str(error)) from None
