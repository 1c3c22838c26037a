"""Lists: tags, repositories, referrers, and the search of the first API."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from twisted.internet.defer import Deferred

from registryd.errors import PaginationNumberInvalid
from registryd.http.answers import Answer, as_json, next_page, set_header, warn
from registryd.http.headers import number, queries, query
from registryd.http.streaming import StreamingRequest
from registryd.interfaces import IRegistry, Page, Referrer, ReferrerPage
from registryd.model import OCI_INDEX
from registryd.reference import Digest, RepositoryName

CATALOG_PAGE = 100
"""Repositories in a page of the catalog where the client does not say how many it wants."""

SEARCH_PAGE = 25
SEARCH_LIMIT = 100


@attrs.frozen
class Lists:
    """The list endpoints. ``tags_max`` and ``catalog_max`` bound a page."""

    tags_max: int
    catalog_max: int

    def tags(self, registry: IRegistry, request: StreamingRequest, name: RepositoryName) -> Deferred[Answer]:
        """end-8: the tags of a repository, all of them where the client does not say how many it wants."""
        wanted = number(request, b"n")
        count = None if wanted is None else min(wanted, self.tags_max)

        def answer(page: Page) -> Answer:
            if page.more and count:
                next_page(request, {"last": page.names[-1], "n": str(count)})
            warn(request, page.warning)
            asked = name if request.route is None else request.route.asked
            return as_json(request, {"name": asked, "tags": page.names})

        return registry.tags(name, count, query(request, b"last") or "").addCallback(answer)

    def catalog(self, registry: IRegistry, request: StreamingRequest) -> Deferred[Answer]:
        """The repositories of the registry. Source: Distribution, registry/handlers/catalog.go."""
        asked = number(request, b"n")
        count = min(CATALOG_PAGE, self.catalog_max) if asked is None else asked
        if count > self.catalog_max:
            raise PaginationNumberInvalid(detail={"n": count, "at most": self.catalog_max})

        def answer(page: Page) -> Answer:
            if page.more and count:
                next_page(request, {"last": page.names[-1], "n": str(count)})
            warn(request, page.warning)
            return as_json(request, {"repositories": page.names})

        return registry.repositories(count, query(request, b"last") or "").addCallback(answer)

    def search(self, registry: IRegistry, request: StreamingRequest) -> Deferred[Answer]:
        """The repositories whose names contain a text. Source: Docker's registry API v1, "Search"."""
        text = query(request, b"q") or ""
        size = min(number(request, b"n") or SEARCH_PAGE, SEARCH_LIMIT)
        page = number(request, b"page") or 1
        return registry.repositories(None, "").addCallback(_found, request, text, page, size)

    def referrers(
        self, registry: IRegistry, request: StreamingRequest, name: RepositoryName, digest: str
    ) -> Deferred[Answer]:
        """end-12: what refers to a manifest, of any artifact type or of some."""
        # No media type has a space: it was a plus that the client did not encode.
        artifact_types = [text.replace(" ", "+") for text in queries(request, b"artifactType") if text]
        last = query(request, b"last")
        found = registry.referrers(name, Digest.parse(digest), artifact_types, Digest.parse(last) if last else None)
        return found.addCallback(_index, request, artifact_types)


def _found(all_names: Page, request: StreamingRequest, text: str, page: int, size: int) -> Answer:
    names = [name for name in all_names.names if text in name]
    results = [{"name": name, "description": ""} for name in names[(page - 1) * size : page * size]]
    found = {
        "query": text,
        "num_results": len(names),
        "num_pages": -(-len(names) // size),
        "page": page,
        "page_size": size,
        "results": results,
    }
    return as_json(request, found)


def _index(page: ReferrerPage, request: StreamingRequest, artifact_types: Sequence[str]) -> Answer:
    warn(request, page.warning)
    if artifact_types:
        set_header(request, b"oci-filters-applied", b"artifactType")
    if page.more:
        next_page(request, {"artifactType": artifact_types, "last": str(page.referrers[-1].descriptor.digest)})
    descriptors = [_described(referrer) for referrer in page.referrers]
    return as_json(request, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": descriptors}, OCI_INDEX)


def _described(referrer: Referrer) -> dict[str, object]:
    blob = referrer.descriptor
    described: dict[str, object] = {"mediaType": blob.media_type, "digest": str(blob.digest), "size": blob.size}
    if referrer.artifact_type:
        described["artifactType"] = referrer.artifact_type
    if referrer.annotations:
        described["annotations"] = referrer.annotations
    return described
