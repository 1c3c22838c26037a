"""The debug port: what operators ask of a registry, apart from what its clients do."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from twisted.internet.interfaces import IReactorTime
from twisted.web.http import Request
from twisted.web.pages import errorPage, notFound
from twisted.web.resource import IResource, Resource
from twisted.web.server import Site

Page = Callable[[str], tuple[bytes, str]]
"""What makes a page, and tells its media type, for the Accept header of who asks for it."""

_TIMEOUT = 60.0


class DebugSite(Site):
    """Answers GET and HEAD of a few paths, each with a page made anew, and all else with 404."""

    noisy = False

    def __init__(self, pages: Mapping[str, Page], reactor: IReactorTime) -> None:
        super().__init__(_Pages(pages), timeout=_TIMEOUT, reactor=reactor)

    def log(self, request: Request) -> None:
        pass  # A scrape every few seconds is nothing for a log.


class _Pages(Resource):
    isLeaf = True

    def __init__(self, pages: Mapping[str, Page]) -> None:
        super().__init__()
        self._pages = {path.encode(): page for path, page in pages.items()}

    def render(self, request: Request) -> bytes:
        page = self._pages.get(request.path)
        if page is None:
            return _rendered(notFound(), request)
        if request.method not in (b"GET", b"HEAD"):
            request.setHeader("Allow", "GET, HEAD")
            return _rendered(errorPage(405, "Method Not Allowed", "This page can be read."), request)
        content, media_type = page(request.getHeader("Accept") or "")
        request.setHeader("Content-Type", media_type)
        return content


def _rendered(resource: IResource, request: Request) -> bytes:
    content: bytes = resource.render(request)
    return content
