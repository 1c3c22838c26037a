"""The rows of the table: what each makes the servers do, in which unit it is told, and what registryd is to reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

from bench.client import BLOB_FIELDS, HEAD_FIELDS, MANIFEST_FIELDS, ONE_REQUEST, AnswerError, Client, request_bytes
from bench.loads import Load, get_many, head_many, list_all, pull_large, push_large, push_layers
from bench.servers import DISTRIBUTION, NGINX, REGISTRYD, Server
from bench.stores import (
    LISTED_REPOSITORY,
    Image,
    digest_of,
    listed_repositories,
    listed_tags,
    store_images,
    store_large_blob,
    write_listed_tree,
)


@attrs.frozen
class Unit:
    """A unit of work and of time: seconds times ``scale`` are what is printed with ``digits`` after the point."""

    name: str
    scale: float
    digits: int


MICROSECONDS = Unit("µs/request", 1e6, 0)
SECONDS_A_GIB = Unit("s/GiB", 1.0, 2)
MILLISECONDS_A_LAYER = Unit("ms/layer", 1e3, 2)
MILLISECONDS_A_LISTING = Unit("ms/listing", 1e3, 1)


@attrs.frozen
class Target:
    """What registryd's CPU time is to be: at most ``ratio`` of a peer's, and below ``limit`` in the row's unit."""

    peer: str
    ratio: float
    limit: float | None = None


@attrs.frozen
class Row:
    """A row: ``prepare`` fills a server's store, checks what it answers, and makes the load.

    ``write_store``, where it is set, writes the store that the registries share, before they start.
    """

    key: str
    title: str
    unit: Unit
    servers: Sequence[str]
    prepare: Callable[[Server], Load]
    target: Target | None = None
    tls: bool = False
    write_store: Callable[[Path], None] | None = None


def _manifests_by(reference: Callable[[Image], str], *more: tuple[str, str]) -> Callable[[Server], Load]:
    fields = (*MANIFEST_FIELDS, *more)

    def prepare(server: Server) -> Load:
        wanted = [(f"/v2/{image.name}/manifests/{reference(image)}", image.manifest) for image in store_images(server)]
        return _gets(server, wanted, fields)

    return prepare


def _small_blobs(server: Server) -> Load:
    return _gets(server, _layers(server), BLOB_FIELDS)


def _gets(server: Server, wanted: Sequence[tuple[str, bytes]], fields: Sequence[tuple[str, str]]) -> Load:
    for target, content in wanted:
        _check_content(server, target, fields, content)
    requests = [request_bytes(server, "GET", target, fields) for target, _ in wanted]
    return get_many(server, requests, min(len(content) for _, content in wanted))


def _check_content(server: Server, target: str, fields: Sequence[tuple[str, str]], content: bytes) -> None:
    with Client(server) as client:
        if client.expect(200, "GET", target, fields).body != content:
            raise AnswerError(f"GET {target}: other content than what was pushed")


def _blob_heads(server: Server) -> Load:
    wanted = _layers(server)
    with Client(server) as client:
        for target, content in wanted:
            if client.expect(200, "HEAD", target, HEAD_FIELDS).fields["content-length"] != str(len(content)):
                raise AnswerError(f"HEAD {target}: another length than that of what was pushed")
    return head_many(server, [request_bytes(server, "HEAD", target, HEAD_FIELDS) for target, _ in wanted])


def _layers(server: Server) -> Sequence[tuple[str, bytes]]:
    firsts = [(image.name, image.blobs[0]) for image in store_images(server)]
    return [(f"/v2/{name}/blobs/{digest_of(blob)}", blob) for name, blob in firsts]


def _large_pulls(server: Server) -> Load:
    target, blob = store_large_blob(server)
    return pull_large(server, target, blob.digest)


def _catalog(server: Server) -> Load:
    return list_all(server, "/v2/_catalog?n=1000", "repositories", listed_repositories())


def _tags(server: Server) -> Load:
    return list_all(server, f"/v2/{LISTED_REPOSITORY}/tags/list", "tags", listed_tags())


_REGISTRIES = (REGISTRYD, DISTRIBUTION)
_ALL = (REGISTRYD, DISTRIBUTION, NGINX)

ROWS: Sequence[Row] = (
    Row(
        "manifest-tag",
        "manifest GET by tag",
        MICROSECONDS,
        _REGISTRIES,
        _manifests_by(lambda image: image.tag),
        Target(DISTRIBUTION, 0.20, 160),
    ),
    Row(
        "manifest-digest",
        "manifest GET by digest",
        MICROSECONDS,
        _REGISTRIES,
        _manifests_by(lambda image: image.digest),
    ),
    Row(
        "manifest-close",
        "manifest GET by tag, a connection each (as Docker Engine 20.10)",
        MICROSECONDS,
        _REGISTRIES,
        _manifests_by(lambda image: image.tag, *ONE_REQUEST),
    ),
    Row("blob-head", "blob HEAD", MICROSECONDS, _ALL, _blob_heads),
    Row("blob-get", "blob GET, 4 KiB", MICROSECONDS, _ALL, _small_blobs, Target(DISTRIBUTION, 0.15)),
    Row("pull", "pull of 1 GiB, plain", SECONDS_A_GIB, _ALL, _large_pulls, Target(NGINX, 1.2)),
    Row("pull-tls", "pull of 1 GiB, TLS", SECONDS_A_GIB, _ALL, _large_pulls, Target(NGINX, 1.5), tls=True),
    Row(
        "push",
        "push of 1 GiB, one chunked PATCH",
        SECONDS_A_GIB,
        _REGISTRIES,
        push_large,
        Target(DISTRIBUTION, 0.4, 1.6),
    ),
    Row("push-layers", "push of 200 layers of 16 KiB by 8 clients", MILLISECONDS_A_LAYER, _REGISTRIES, push_layers),
    Row(
        "catalog",
        "catalog of 10,000 repositories, pages of 1,000",
        MILLISECONDS_A_LISTING,
        _REGISTRIES,
        _catalog,
        write_store=write_listed_tree,
    ),
    Row(
        "tags",
        "tags list of 10,000",
        MILLISECONDS_A_LISTING,
        _REGISTRIES,
        _tags,
        write_store=write_listed_tree,
    ),
)


def row_named(key: str) -> Row:
    """The row of a key.

    Errors:
        KeyError: there is none.
    """
    return {row.key: row for row in ROWS}[key]
