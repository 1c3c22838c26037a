"""A file and an environment to a Config: defaults filled in, contradictions refused."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from types import MappingProxyType

from registryd.config import sections
from registryd.config.built import unbuilt
from registryd.config.drivers import DRIVERS
from registryd.config.environment import PATH_VARIABLE, Overlay
from registryd.config.http import http
from registryd.config.kinds import Reading, Values, closest
from registryd.config.nodes import ConfigError, MapNode, Node, Origin, is_null, quoted
from registryd.config.patterns import Pattern
from registryd.config.schema import ROOT, STORAGE, dotted_keys, variables
from registryd.config.source import parse, read_file
from registryd.config.values import Config, Log, Platform, Purging, Storage, Urls, Validation

EMBEDDED_SOURCE = "embedded default"
EMBEDDED = """\
version: 0.1
storage:
  filesystem:
    rootdirectory: ./var/registry
http:
  addr: 127.0.0.1:5000
"""
"""The configuration of a daemon that is given none."""
_THREADS_LEAST, _THREADS = 25, 100


def load(path: str | None, environ: Mapping[str, str]) -> Config:
    """The configuration that a file and the environment make together.

    Without a path the file is the one that REGISTRY_CONFIGURATION_PATH names, else the embedded default.

    Errors:
        ConfigError: the file cannot be read, or what it or the environment says cannot be used.
    """
    path = path or environ.get(PATH_VARIABLE) or None
    source = EMBEDDED_SOURCE if path is None else path
    text = EMBEDDED if path is None else read_file(path)
    reading = Reading(_elsewhere())
    node, more = parse(text, lambda line: Origin(source, line))
    _check_version(node, source)
    if more:
        reading.remark(f"{source}: what follows its second '---' is not read")
    node = Overlay(ROOT, tuple(variables()), reading.remark).apply(node, environ)
    # Resolved now, since a daemon works in another folder later.
    return _config(source, path and os.path.abspath(path), reading.section(ROOT, node, ""), reading)


def _elsewhere() -> dict[str, str]:
    """For the last part of a key that is the last part of no other, the whole key."""
    keys = list(dotted_keys())
    names = [key.rpartition(".")[2] for key in keys]
    return {name: key for name, key in zip(names, keys, strict=True) if names.count(name) == 1}


def _check_version(node: Node, source: str) -> None:
    if not isinstance(node, MapNode):
        if is_null(node):
            raise ConfigError(Origin(source), "version", "missing: the file is empty; it must say version: 0.1")
        raise ConfigError(node.origin, "", "needs a mapping of keys to values, the first of them version: 0.1")
    version = node.entries.get("version")
    if version is None:
        raise ConfigError(node.origin, "version", "missing: the file must say version: 0.1")
    found = Reading({}).value(ROOT.keys["version"], version, "version")
    if found != "0.1":
        raise ConfigError(version.origin, "version", f"unsupported version {quoted(str(found))}: use 0.1")


def _config(source: str, path: str | None, root: Values, reading: Reading) -> Config:
    collection = sections.collection(root.section("gc"))
    proxy = sections.proxy(root.section("proxy"))
    storage = _storage(root.section("storage"))
    sections.remark_short_lives(root.section("proxy"), proxy, collection.grace, reading.remark)
    if proxy is not None and storage.read_only:
        where = root.section("storage").section("maintenance").at("readonly")
        reading.remark(where.says("storage.maintenance.readonly", "proxy fetches nothing: nothing could be stored"))
    return Config(
        source=source,
        path=path,
        log=_log(root),
        storage=storage,
        http=http(root.section("http"), reading.remark),
        catalog_max_entries=max(root.section("catalog").get("maxentries", int, 0), 0) or 1000,
        tags_max=_tags_max(root.section("tags")),
        validation=_validation(root.section("validation")),
        collection=collection,
        auth=sections.auth(root.section("auth")),
        proxy=proxy,
        warnings=tuple(reading.remarks),
        unbuilt=tuple(unbuilt(ROOT, root)),
    )


def _log(root: Values) -> Log:
    values = root.section("log")
    return Log(
        level=values.text("level") or root.text("loglevel", "info"),
        formatter=values.text("formatter", "text"),
        fields=MappingProxyType({name: _field(value) for name, value in values.mapping("fields").items()}),
        access=not values.section("accesslog").get("disabled", bool, False),
    )


def _field(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value) if value is not None else ""


def _storage(values: Values) -> Storage:
    driver = _driver(values)
    parameters = values.section(driver)
    threads = parameters.get("maxthreads", int, _THREADS)
    maintenance = values.section("maintenance")
    default_root = "/var/lib/registry" if driver == "filesystem" else ""
    return Storage(
        driver=driver,
        parameters=MappingProxyType(dict(_plain(parameters))),
        rootdirectory=parameters.text("rootdirectory", default_root),
        threads=max(threads, _THREADS_LEAST),
        delete=values.section("delete").get("enabled", bool, False),
        read_only=maintenance.section("readonly").get("enabled", bool, False),
        purging=_purging(maintenance.section("uploadpurging")),
    )


def _plain(values: Values) -> dict[str, object]:
    return {key: _plain(value) if isinstance(value, Values) else value for key, value in values.present.items()}


def _driver(values: Values) -> str:
    drivers = [name for name in values.origins if name in DRIVERS or name in values.unknown]
    if not drivers:
        raise ConfigError(values.origin, "storage", "no storage configuration provided: write for example filesystem")
    last = drivers[-1]
    close = closest(last, STORAGE.keys) if last in values.unknown else None
    hint = f" (did you mean {close} by {last}?)" if close else ""
    if len(drivers) > 1 and values.at(last).line is None:
        problem = "multiple storage drivers specified in configuration or environment: "
        raise values.error(last, f"{problem}{', '.join(drivers)}{hint}: keep one")
    if len(drivers) > 1:
        raise values.error(last, f"must provide exactly one storage type. Provided: [{' '.join(drivers)}]{hint}")
    if last in values.unknown:
        raise values.error(last, f"no such storage driver: use {', '.join(DRIVERS)}{hint}")
    return last


def _purging(values: Values) -> Purging | None:
    if not values.get("enabled", bool, True):
        return None
    return Purging(
        age=values.get("age", float, 7 * sections.DAY),
        interval=values.get("interval", float, sections.DAY),
        dry_run=values.get("dryrun", bool, False),
    )


def _tags_max(values: Values) -> int:
    most = values.get("maxtags", int, 0)
    if most < 0:
        raise values.error("maxtags", f"{most} is negative: use at least 1")
    return most or 1000


def _validation(values: Values) -> Validation:
    manifests = values.section("manifests")
    indexes = manifests.section("indexes")
    urls = manifests.section("urls")
    return Validation(
        disabled=values.get("disabled", bool, False),
        urls=Urls(_patterns(urls, "allow"), _patterns(urls, "deny")) if "urls" in manifests.present else None,
        platforms=indexes.text("platforms", "all"),
        platform_list=tuple(
            Platform(os=item.text("os"), architecture=item.text("architecture"))
            for item in indexes.sections("platformlist")
        ),
    )


def _patterns(values: Values, key: str) -> tuple[Pattern, ...]:
    return tuple(item for item in values.get(key, tuple, ()) if isinstance(item, Pattern))
