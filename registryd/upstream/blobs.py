"""Blobs behind one URL of an upstream: whole, or from where an earlier fetch broke off."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.web.iweb import IResponse
from zope.interface import implementer

from registryd.errors import BlobUnknown, UpstreamUnavailable
from registryd.interfaces import IFetch, IViewConsumer
from registryd.model import OCTET_STREAM, Descriptor
from registryd.reference import Digest, RepositoryName
from registryd.upstream.body import body_length
from registryd.upstream.flow import Course
from registryd.upstream.headers import first, told_length
from registryd.upstream.remote import OK, Remote
from registryd.upstream.slots import Slots

_PARTIAL: Final = 206
_RANGE_REFUSED: Final = 416
_CONTENT_RANGE = re.compile(r"bytes\s+(?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)", re.ASCII)


class Blobs:
    """The blobs of a registry."""

    def __init__(self, remote: Remote, slots: Slots) -> None:
        self._remote = remote
        self._slots = slots

    async def resolve(self, name: RepositoryName, digest: Digest) -> Descriptor:
        """See IUpstream.resolve_blob. Some registries answer HEAD with 401, 403 or 404 for what a GET gets."""
        slot = await self._slots.take()
        try:
            size = await self._size(name, digest)
        finally:
            slot.release()
        if size is None:
            raise BlobUnknown(detail={"digest": str(digest)})
        return Descriptor(OCTET_STREAM, digest, size)

    async def _size(self, name: RepositoryName, digest: Digest) -> int | None:
        """The bytes of a blob by HEAD, where that tells; who asks has a slot."""
        response = await self._remote.ask(b"HEAD", name, f"blobs/{digest}", insist=False)
        self._remote.discard(response)
        size = told_length(response.headers)
        return size if response.code == OK and size is not None and digest.may_be_of(size) else None

    async def fetch(self, name: RepositoryName, digest: Digest, start: int) -> IFetch:
        """See IUpstream.fetch_blob; the slot is taken until the fetch is over."""
        fetch = await self._fetch(name, digest, start)
        if fetch.size is None:
            try:
                # In the slot of the fetch: there may be no other, and its body waits for this.
                fetch.size = await self._size(name, digest)
            except UpstreamUnavailable:
                pass
            except BaseException:
                fetch.abandon()
                raise
        return fetch

    async def _fetch(self, name: RepositoryName, digest: Digest, start: int) -> IFetch:
        slot = await self._slots.take(body=True)
        try:
            # Only now: while it waited for its slot, others may have found that bodies stall.
            course = self._remote.flow.of_blob()
            try:
                return await self._begin(name, f"blobs/{digest}", start, slot.release, course)
            except BaseException:
                course.ended()
                raise
        except BaseException:
            slot.release()
            raise

    async def _begin(
        self, name: RepositoryName, path: str, start: int, ended: Callable[[], None], course: Course
    ) -> IFetch:
        if start:
            response = await self._remote.ask(b"GET", name, path, {"Range": f"bytes={start}-"})
            fetch = self._resumed(response, start, ended, course)
            if fetch is not None:
                return fetch
            if response.code == OK:
                return self._remote.fetch(response, 0, body_length(response), ended, course)
            if response.code not in (_PARTIAL, _RANGE_REFUSED):
                self._remote.expect(response, BlobUnknown)
            self._remote.discard(response)
        response = await self._remote.ask(b"GET", name, path)
        self._remote.expect(response, BlobUnknown)
        return self._remote.fetch(response, 0, body_length(response), ended, course)

    def _resumed(self, response: IResponse, start: int, ended: Callable[[], None], course: Course) -> IFetch | None:
        """The rest of a blob, if that is what an answer brings: nothing, where nothing is missing."""
        told = _CONTENT_RANGE.fullmatch(first(response.headers, b"Content-Range"))
        if told is None:
            return None
        size = None if told[3] == "*" else int(told[3])
        if response.code == _PARTIAL and told[1] is not None and int(told[1]) == start and (size or start) >= start:
            return self._remote.fetch(response, start, size, ended, course)
        if response.code == _RANGE_REFUSED and size == start:
            self._remote.discard(response)
            course.ended()
            ended()
            return NothingMissing(start, size)
        return None


@implementer(IFetch)
@attrs.define
class NothingMissing:
    """The rest of a blob of which all had come."""

    start: int
    size: int
    sender: int = 0

    def deliver_to(self, consumer: IViewConsumer) -> Deferred[None]:
        return succeed(None)

    def abandon(self) -> None:
        pass
