"""Requests with prefixes and ``ns``: every row of docs/mirror.md through the front, and what its answers lead back to.

The registries are local ones in memory: each upstream's stands in for its mirror.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import quote

import pytest

from registryd.filters import ReadOnly
from registryd.globs import Globs
from registryd.interfaces import IRegistry
from registryd.reference import Digest, RepositoryName, Tag, is_name
from registryd.routes import Namespaces, RoutedRegistry
from registryd.storage.memory import MemoryDriver
from registryd.unsupported import UnsupportedRegistry
from tests.mirror_table import ERRORS, Row, config_of, rows
from tests.values import image, local_registry, put_blob

from .content import OCI_MANIFEST, digest_of
from .in_process import InProcess
from .wire import link_of, path_of

TABLE = list(rows())
CONFIG = b"{}"
PRIVATE = "private"
HUB = frozenset(["docker.io"])
TAGS = ("first", "latest", "third")


def filled(owner: str, names: set[str]) -> IRegistry:
    """A registry that holds repositories of some names; their manifests tell whose they are."""
    registry = local_registry(MemoryDriver())
    for name in map(RepositoryName, names):
        put_blob(registry, CONFIG, name)
        manifest = image(CONFIG, annotations={"owner": owner, "name": name})
        registry.put_manifest(name, manifest, [Tag(tag) for tag in TAGS])
    return registry


def served(config: str) -> InProcess:
    """The front of a table's configuration; every registry behind it holds all names that stand in the table."""
    with tempfile.TemporaryDirectory() as folder:
        read = config_of(config, Path(folder))
    mine = [row for row in TABLE if row.config == config]
    names = {row.repository for row in mine} | {asked_name(row) for row in mine}
    names = {name for name in names if is_name(name)}
    local = filled(PRIVATE, names)
    if read.proxy is None:
        return InProcess(local, None, read.http.prefix)
    namespaces = Namespaces.of(read.proxy, read.http.host)
    if read.proxy.remote is not None:
        return InProcess(ReadOnly(filled("remote", names)), namespaces, read.http.prefix)
    mirrors = {component: filled(component, names) for component in read.proxy.upstreams}
    return InProcess(RoutedRegistry(local, mirrors), namespaces, read.http.prefix)


shared = cache(served)


def asked_name(row: Row) -> str:
    return row.path.partition("/v2/")[2]


def target(row: Row, tail: str, **query: str) -> str:
    fields = [*query.items(), *([("ns", row.ns)] if row.ns else [])]
    return f"{row.path}/{tail}" + ("?" + "&".join(f"{key}={quote(value)}" for key, value in fields) if fields else "")


def owner(row: Row) -> str:
    if row.upstream is None:
        return PRIVATE
    return "remote" if "remoteurl" in row.document["proxy"] else row.upstream.replace(":", "_")


def both_ways(path: str) -> Iterator[str]:
    """A path as it is, and so that it does not take the way that is for pulls alone."""
    yield path
    head, api, name = path.partition("/v2/")
    yield f"{head}{api}%{ord(name[0]):02x}{name[1:]}"


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_manifests(row: Row) -> None:
    front = shared(row.config)
    for path in both_ways(target(row, "manifests/latest")):
        answer = front.get(path)
        assert front.exchange("HEAD", path).status == answer.status
        if row.error is not None:
            answer.refuses(ERRORS[row.error], row.error)
            assert not answer.all("OCI-Namespace")
            continue
        assert answer.is_(200).json()["annotations"] == {"owner": owner(row), "name": row.repository}
        assert answer.all("OCI-Namespace") == ([row.namespace] if row.namespace else [])


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_blobs(row: Row) -> None:
    front = shared(row.config)
    for path in both_ways(target(row, f"blobs/{digest_of(CONFIG)}")):
        answer = front.get(path)
        if row.error is not None:
            answer.refuses(ERRORS[row.error], row.error)
        else:
            assert answer.is_(200).body == CONFIG
            assert answer.all("OCI-Namespace") == ([row.namespace] if row.namespace else [])


@pytest.mark.parametrize("row", [row for row in TABLE if row.error is None], ids=str)
def test_lists_have_the_name_that_was_asked_for_and_lead_on(row: Row) -> None:
    front = shared(row.config)
    path: str | None = target(row, "tags/list", n="2")
    pages = []
    while path is not None:
        answer = front.get(path).is_(200)
        assert answer.json()["name"] == asked_name(row)
        assert answer.all("OCI-Namespace") == ([row.namespace] if row.namespace else [])
        pages.append(answer.json()["tags"])
        path = link_of(answer)
        assert path is None or path.startswith(f"{row.path}/tags/list?"), path
    assert pages == [["first", "latest"], ["third"]]


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_pushes(row: Row) -> None:
    # Each has a front of its own where it is let in.
    lets_in = row.error is None and row.upstream is None
    front = served(row.config) if lets_in else shared(row.config)
    started = front.push("POST", target(row, "blobs/uploads/"))
    if not lets_in:
        status, code = (ERRORS[row.error], row.error) if row.error else (405, "UNSUPPORTED")
        started.refuses(status, code)
        front.push("PUT", target(row, "manifests/new"), b"{}", OCI_MANIFEST).refuses(status, code)
        front.exchange("DELETE", target(row, "manifests/latest")).refuses(status, code)
        return
    layer = b"a layer"
    location = path_of(front.push("PATCH", started.is_(202).location, layer).is_(202).header("Location"))
    end = f"{location}{'&' if '?' in location else '?'}digest={digest_of(layer)}"
    assert front.get(front.push("PUT", end).is_(201).location).is_(200).body == layer
    manifest = image(CONFIG, layer)
    pushed = front.push("PUT", target(row, "manifests/new"), manifest.content, OCI_MANIFEST).is_(201)
    assert front.get(pushed.location).is_(200).body == manifest.content
    assert front.get(target(row, "manifests/new")).is_(200).body == manifest.content


def config_with(text: str) -> str:
    """The first configuration that holds a text."""
    return next(row.config for row in TABLE if text in row.config)


SIDE_BY_SIDE, PREFIXED = config_with("self: registry:5000"), config_with("prefix:")
REMOTE = config_with("remoteurl: https://registry-1.docker.io\n")


@pytest.mark.parametrize(
    ("config", "path", "location"),
    [
        (SIDE_BY_SIDE, "/docker.io/v2", "/docker.io/v2/"),
        (SIDE_BY_SIDE, "/localhost%3A5001/v2", "/localhost:5001/v2/"),
        (SIDE_BY_SIDE, "/Registry-1.docker.io/v2", "/Registry-1.docker.io/v2/"),
        (SIDE_BY_SIDE, "/v2", "/v2/"),
        (PREFIXED, "/registry/docker.io/v2", "/registry/docker.io/v2/"),
        (PREFIXED, "/registry/v2", "/registry/v2/"),
    ],
)
def test_ping(config: str, path: str, location: str) -> None:
    front = shared(config)
    assert front.get(path).is_(301).location == location
    for ping in (f"{path}/", location):
        answer = front.get(ping).is_(200)
        assert answer.json() == {}
        assert answer.header("Docker-Distribution-Api-Version") == "registry/2.0"


@pytest.mark.parametrize(
    ("config", "path"),
    [
        (SIDE_BY_SIDE, "/quay.io/v2/"),
        (SIDE_BY_SIDE, "/docker.io"),
        (SIDE_BY_SIDE, "/docker.io/"),
        (SIDE_BY_SIDE, "/docker.io/v2x"),
        (SIDE_BY_SIDE, "/docker.io/v1/_ping"),
        (SIDE_BY_SIDE, "/docker.io/docker.io/v2/"),
        (SIDE_BY_SIDE, "/ghcr.io/docker.io/v2/"),
        (SIDE_BY_SIDE, "//docker.io/v2/"),
        (PREFIXED, "/docker.io/v2/"),
        (PREFIXED, "/registrydocker.io/v2/"),
        (REMOTE, "/docker.io/v2/"),
    ],
)
def test_no_ping(config: str, path: str) -> None:
    shared(config).get(path).refuses(404, "NAME_UNKNOWN")


def test_an_error_of_the_upstream_s_carries_the_namespace() -> None:
    answer = shared(SIDE_BY_SIDE).get("/v2/org/app/manifests/none?ns=ghcr.io")
    answer.refuses(404, "MANIFEST_UNKNOWN")
    assert answer.header("OCI-Namespace") == "ghcr.io"


def test_the_first_ns_counts() -> None:
    answer = shared(SIDE_BY_SIDE).get("/v2/org/app/manifests/latest?ns=ghcr.io&ns=docker.io").is_(200)
    assert (answer.json()["annotations"]["owner"], answer.header("OCI-Namespace")) == ("ghcr.io", "ghcr.io")


@pytest.mark.parametrize("ns", ["ghcr.io%0d%0aX:%20y", "%ff", "%00", "a" * 5000, "%E2%84%AAghcr.io"])
def test_an_ns_that_is_none(ns: str) -> None:
    answer = shared(SIDE_BY_SIDE).get(f"/v2/org/app/manifests/latest?ns={ns}")
    answer.refuses(404, "NAME_UNKNOWN")
    assert not answer.all("OCI-Namespace") and not answer.all("X")


def test_the_catalog_is_the_tree_s_under_every_prefix() -> None:
    front = shared(SIDE_BY_SIDE)
    first = front.get("/docker.io/v2/_catalog?n=1").is_(200)
    assert first.json() == front.get("/v2/_catalog?n=1").json()
    following = link_of(first)
    assert following is not None and following.startswith("/docker.io/v2/_catalog?")
    assert front.get(following).is_(200).json() != first.json()


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("team/app", 201),
        ("docker.io/library/alpine", 201),
        ("alpine", 201),
        ("docker.io/alpine", 201),
        ("docker.io/no/where", 202),
        ("no/where", 202),
        ("docker.io", 202),
        ("NO", 202),
    ],
)
def test_mount(source: str, status: int) -> None:
    """``from`` is a name as clients have it; what is cached under it lies in the tree of the private ones."""
    local = filled(PRIVATE, {"team/app", "docker.io/library/alpine"})
    namespaces = Namespaces(HUB, frozenset(), "docker.io", Globs(["team/*"]), False, False, HUB)
    front = InProcess(RoutedRegistry(local, {"docker.io": UnsupportedRegistry()}), namespaces)
    answer = front.push("POST", f"/v2/team/new/blobs/uploads/?mount={digest_of(CONFIG)}&from={source}").is_(status)
    held = front.get(f"/v2/team/new/blobs/{digest_of(CONFIG)}")
    assert held.status == (200 if status == 201 else 404)
    assert "/v2/team/new/blobs/" in answer.location


def test_referrers_lead_to_the_upstream() -> None:
    front = shared(SIDE_BY_SIDE)
    subject = Digest.of(b"nothing")
    for path in ("/v2/org/app/referrers/{}?ns=ghcr.io", "/ghcr.io/v2/org/app/referrers/{}"):
        assert front.get(path.format(subject)).is_(200).json()["manifests"] == []
    front.get(f"/v2/org/app/referrers/{subject}?ns=quay.io").refuses(404, "NAME_UNKNOWN")
