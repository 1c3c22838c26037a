"""Pages of ordered lists."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice

from registryd.interfaces import Page, Referrer, ReferrerPage

REFERRERS_PAGE = 4 * 1024 * 1024 - 4096
"""Bytes of a page of referrers: clients take 4 MiB of a manifest at the most."""

_DESCRIPTOR = 1024  # Bytes of a descriptor without its annotations, at the most.


def names_page(names: Iterable[str], count: int | None, warning: str | None = None) -> Page:
    """The first ``count`` of some names, or all."""
    if count is None:
        return Page(tuple(names), False, warning=warning)
    first = tuple(islice(names, count + 1))
    return Page(first[:count], len(first) > count, warning=warning)


def referrers_page(referrers: Iterable[Referrer], warning: str | None = None) -> ReferrerPage:
    """The first of some referrers: as many as a client takes in one answer."""
    page: list[Referrer] = []
    size = 0
    for referrer in referrers:
        size += _DESCRIPTOR + len(json.dumps(dict(referrer.annotations)))
        if page and size > REFERRERS_PAGE:
            return ReferrerPage(page, True, warning=warning)
        page.append(referrer)
    return ReferrerPage(page, False, warning=warning)
