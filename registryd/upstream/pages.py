"""Pages of tags and referrers as servers of all kinds answer them.

Source: OCI distribution specification, "Listing Tags", "Listing Referrers", "Referrers Tag Schema".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urljoin, urlsplit

from twisted.web.http_headers import Headers

from registryd.errors import DigestInvalid, UpstreamUnavailable
from registryd.interfaces import Referrer
from registryd.model import OCI_MANIFEST, Descriptor, is_media_type
from registryd.reference import Digest
from registryd.upstream.headers import every

_ERRORS = "a registry's errors"
_LINK = re.compile(r'<([^<>]*)>((?:\s*;\s*[\w*-]+\s*=\s*(?:"[^"]*"|[^\s,;"]+))*)')
_NEXT = re.compile(r';\s*rel\s*=\s*(?:"\s*(?:[^"]*\s)?next(?:\s[^"]*)?"|next\b)', re.IGNORECASE)


def next_query(headers: Headers) -> str | None:
    """The query of the next page by the Link headers of one; None where they name none.

    A link is below the same path: only its query says anything, and links with a wrong scheme or host are common.
    """
    for value in every(headers, b"Link"):
        for link in _LINK.finditer(value[: 16 * 1024]):
            if _NEXT.search(link[2]):
                return _query(link[1])
    return None


def _query(target: str) -> str | None:
    try:
        query = urlsplit(urljoin("http://upstream/", target)).query
    except ValueError:
        return None
    return query if query.isascii() and query.isprintable() and " " not in query else None


def read_object(content: bytes, what: str) -> Mapping[str, Any]:
    """The JSON object that an answer is.

    Errors:
        UpstreamUnavailable: it is none.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise UpstreamUnavailable(f"the upstream answered with nonsense instead of {what}")
    return document


def expect_errors(content: bytes) -> None:
    """Return if content is what a registry answers instead of what it was asked for.

    Source: OCI distribution specification, "Error Codes".

    Errors:
        UpstreamUnavailable: it is not; somebody else has answered.
    """
    if not isinstance(read_object(content, _ERRORS).get("errors"), list):
        raise UpstreamUnavailable(f"the upstream answered with nonsense instead of {_ERRORS}")


def read_tags(content: bytes) -> Sequence[str]:
    """The tags of one page, as they come.

    Errors:
        UpstreamUnavailable: it is no list of tags.
    """
    page = read_object(content, "a list of tags")
    tags = page.get("tags")
    # Some tell so that there are none.
    if tags is None and "tags" in page:
        return ()
    if not isinstance(tags, list):
        raise UpstreamUnavailable("the upstream answered with nonsense instead of a list of tags")
    return [tag for tag in tags if isinstance(tag, str)]


def read_referrers(content: bytes) -> Sequence[Referrer]:
    """The referrers that an index lists, but for those that are malformed.

    Errors:
        UpstreamUnavailable: it is no index.
    """
    manifests = read_object(content, "a list of referrers").get("manifests")
    if not isinstance(manifests, list):
        raise UpstreamUnavailable("the upstream answered with nonsense instead of a list of referrers")
    return list(_referrers(manifests))


def _referrers(manifests: Sequence[object]) -> Iterator[Referrer]:
    for entry in manifests:
        if not isinstance(entry, dict):
            continue
        size, media_type = entry.get("size"), entry.get("mediaType") or OCI_MANIFEST
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            continue
        if not isinstance(media_type, str) or not is_media_type(media_type):
            continue
        try:
            digest = Digest.parse(str(entry.get("digest")))
        except DigestInvalid:
            continue
        artifact_type = entry.get("artifactType")
        annotations = entry.get("annotations")
        yield Referrer(
            Descriptor(media_type, digest, size),
            artifact_type if isinstance(artifact_type, str) and artifact_type else None,
            _texts(annotations if isinstance(annotations, dict) else {}),
        )


def _texts(annotations: Mapping[Any, Any]) -> Mapping[str, str]:
    return {key: value for key, value in annotations.items() if isinstance(value, str)}
