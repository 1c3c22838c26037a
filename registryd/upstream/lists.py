"""Tags and referrers behind one URL of an upstream, gathered from pages.

Source: OCI distribution specification, "Listing Tags", "Listing Referrers", "Referrers Tag Schema".
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from twisted.web.http_headers import Headers

from registryd.errors import ManifestUnknown, NameUnknown, UpstreamUnavailable
from registryd.interfaces import Referrer
from registryd.model import OCI_INDEX
from registryd.reference import Digest, RepositoryName, is_tag
from registryd.upstream.manifests import Manifests
from registryd.upstream.pages import next_query, read_referrers, read_tags
from registryd.upstream.remote import Remote
from registryd.upstream.slots import Slots

PAGE = 1000
"""Tags that a page is asked for."""

MOST_PAGES = 2000

LIMIT = 8 << 20
"""Bytes that a page may have: some servers know no pages."""

MOST_BYTES = 4 * LIMIT
"""Bytes that all pages of a list may have together; they are held in memory."""

_NO_REFERRERS = frozenset({400, 404, 405, 406, 410, 501})
_HEADERS = {"Accept": f"{OCI_INDEX}, application/json"}


class _Budget:
    """What the pages of one list may still take."""

    def __init__(self) -> None:
        self._left = MOST_BYTES

    def take(self, page: bytes) -> None:
        self._left -= len(page)
        if self._left < 0:
            raise UpstreamUnavailable(f"the upstream's list is larger than {MOST_BYTES} bytes")


class Lists:
    """What a registry's repositories hold."""

    def __init__(self, remote: Remote, slots: Slots, manifests: Manifests) -> None:
        self._remote = remote
        self._slots = slots
        self._manifests = manifests

    async def tags(self, name: RepositoryName) -> Sequence[str]:
        """See IUpstream.tags."""
        tags: set[str] = set()
        asked: set[str] = set()
        budget = _Budget()
        query: str | None = f"n={PAGE}"
        while query is not None and query not in asked and len(asked) < MOST_PAGES:
            asked.add(query)
            headers, content = await self._page(name, f"tags/list?{query}")
            budget.take(content)
            page = read_tags(content)
            before = len(tags)
            tags.update(page)
            if len(tags) == before:
                break  # A server that knows no pages tells the same again and again.
            query = next_query(headers)
            if query is None and len(page) >= PAGE and is_tag(page[-1]):
                query = f"n={PAGE}&last={page[-1]}"  # It may know pages, and not say that there are more.
        return sorted(filter(is_tag, tags))

    async def referrers(self, name: RepositoryName, subject: Digest) -> Sequence[Referrer]:
        """See IUpstream.referrers."""
        found: dict[Digest, Referrer] = {}
        try:
            async for page in self._referrer_pages(name, subject):
                before = len(found)
                found.update((referrer.descriptor.digest, referrer) for referrer in page)
                if len(found) == before:
                    break
        except ManifestUnknown:
            return await self._tagged(name, subject)
        return [found[digest] for digest in sorted(found)]

    async def _referrer_pages(self, name: RepositoryName, subject: Digest) -> AsyncIterator[Sequence[Referrer]]:
        asked: set[str] = set()
        budget = _Budget()
        query: str | None = ""
        while query is not None and query not in asked and len(asked) < MOST_PAGES:
            asked.add(query)
            path = f"referrers/{subject}" + (f"?{query}" if query else "")
            headers, content = await self._page(name, path, _NO_REFERRERS)
            budget.take(content)
            yield read_referrers(content)
            query = next_query(headers)

    async def _tagged(self, name: RepositoryName, subject: Digest) -> Sequence[Referrer]:
        """The referrers that clients keep under a tag, where a registry has no API for them."""
        try:
            manifest = await self._manifests.get(name, subject.referrers_tag)
        except ManifestUnknown:
            return ()
        found = {referrer.descriptor.digest: referrer for referrer in read_referrers(manifest.content)}
        return [found[digest] for digest in sorted(found)]

    async def _page(
        self, name: RepositoryName, path: str, without_api: frozenset[int] = frozenset()
    ) -> tuple[Headers, bytes]:
        """A page of a list; ``without_api`` are the statuses of registries that do not know such lists.

        Errors:
            NameUnknown: there is no such repository.
            ManifestUnknown: the registry does not know such lists.
        """
        slot = await self._slots.take()
        try:
            response = await self._remote.ask(b"GET", name, path, _HEADERS)
            if without_api:
                self._remote.expect(response, ManifestUnknown, without_api)
            else:
                await self._remote.expect_answer(response, NameUnknown)
            return response.headers, await self._remote.read(response, LIMIT)
        finally:
            slot.release()
