"""What a manifest must satisfy to be pushed: which of its parts must be there, and which URLs its layers may name.

Source: Distribution, registry/storage/{ocimanifesthandler,manifestlisthandler}.go and the validation section of its
configuration.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import attrs

from registryd.config import Validation
from registryd.errors import ManifestInvalid
from registryd.model import SCHEMA1, Document, Part

_NOT_IN_URLS = re.compile(r"[\x00-\x20\x7f]")


@attrs.frozen
class Rules:
    """The validation that a configuration asks for."""

    settings: Validation

    def check(self, document: Document, told: str) -> None:
        """Refuse what must not be stored, whatever the repository holds. ``told`` is the type that the bytes tell.

        Errors:
            ManifestInvalid: it is of schema 1, or a layer names a URL that is not allowed.
        """
        if document.media_type in SCHEMA1 or told in SCHEMA1:
            raise ManifestInvalid("schema 1 manifests are no longer accepted: push the image with a current client")
        if not self.settings.disabled:
            for part in document.blobs:
                for url in part.urls:
                    self._check_url(url)

    def requires_blob(self, part: Part) -> bool:
        """Whether a blob must be there: all but those that can be had elsewhere."""
        return not (self.settings.disabled or part.urls)

    def requires_manifest(self, part: Part) -> bool:
        """Whether a child of an index must be there; of one that may be sparse, only the platforms that are listed."""
        if self.settings.disabled or self.settings.platforms == "none":
            return False
        if self.settings.platforms == "all":
            return True
        platform = (part.platform.get("os"), part.platform.get("architecture"))
        return any(platform == (listed.os, listed.architecture) for listed in self.settings.platform_list)

    def _check_url(self, url: str) -> None:
        if _NOT_IN_URLS.search(url):
            # urlsplit would pass over these, and judge another text than clients see.
            raise ManifestInvalid(f"a layer's URL is invalid: {url!r}")
        try:
            split = urlsplit(url)
        except ValueError:
            raise ManifestInvalid(f"a layer's URL is invalid: {url!r}") from None
        if split.scheme not in ("http", "https") or not split.netloc or split.fragment:
            raise ManifestInvalid(f"a layer's URL is invalid: {url!r}")
        lists = self.settings.urls
        if lists is None:
            return
        allowed = any(pattern.search(url) for pattern in lists.allow)
        denied = any(pattern.search(url) for pattern in lists.deny)
        # Only a deny list: all else is allowed. Both empty: nothing is.
        if denied or not (allowed or (lists.deny and not lists.allow)):
            raise ManifestInvalid(f"a layer's URL is not allowed: {url!r}")
