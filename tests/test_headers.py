"""What is read out of headers and queries, and what is not believed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.testing import StringTransport
from twisted.web.http import HTTPChannel, Request, parse_qs

from registryd.errors import PaginationNumberInvalid, RangeInvalid
from registryd.http.headers import (
    MAX_RANGES,
    Span,
    accepts,
    content_range,
    header,
    is_conditional,
    is_known,
    may_change,
    number,
    queries,
    query,
    ranges,
)

ETAG = '"sha256:abc"'


def request_of(query: bytes = b"", /, **headers: str | Sequence[str]) -> Request:
    """A request with a query and headers, whose underscores are hyphens."""
    channel = HTTPChannel()
    channel.makeConnection(StringTransport())
    channel.setTimeout(None)
    request = Request(channel)
    request.args = parse_qs(query, True)
    for name, values in headers.items():
        values = [values] if isinstance(values, str) else values
        request.requestHeaders.setRawHeaders(name.replace("_", "-"), [value.encode("latin-1") for value in values])
    return request


def spans(text: str, size: int = 10, **headers: str) -> list[tuple[int, int]] | None:
    """The ranges of a request, or None where it is given everything."""
    found = ranges(request_of(b"", range=text, **headers), size, ETAG)
    return None if found is None else [(span.start, span.stop) for span in found]


def test_header_is_the_first() -> None:
    assert header(request_of(accept=["a", "b"]), b"Accept") == "a"
    assert header(request_of(), b"accept") is None


def test_queries() -> None:
    request = request_of(b"tag=a&tag=b%20c&empty=&bad=%ff")
    assert (query(request, b"tag"), queries(request, b"tag")) == ("a", ["a", "b c"])
    assert (query(request, b"none"), queries(request, b"none")) == (None, [])
    assert (query(request, b"empty"), query(request, b"bad")) == ("", "\ufffd")


@pytest.mark.parametrize(
    ("text", "expected"), [(b"0", 0), (b"1", 1), (b"007", 7), (b"9" * 18, 10**18 - 1), (b"9" * 5000, 10**18)]
)
def test_number(text: bytes, expected: int) -> None:
    assert number(request_of(b"n=" + text), b"n") == expected


def test_number_where_there_is_none() -> None:
    assert number(request_of(b"m=1"), b"n") is None


@pytest.mark.parametrize(
    "text",
    ["", "-1", "+1", "%201", "1%20", "1.0", "1e3", "0x1", "a", "1_0", "%D9%A3", "1%0A"],
)
def test_number_that_is_none(text: str) -> None:
    with pytest.raises(PaginationNumberInvalid):
        number(request_of(b"n=" + text.encode()), b"n")


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("0-9", (0, 10)),
        ("5-5", (5, 6)),
        ("bytes 0-9/10", (0, 10)),
        ("bytes 0-9/*", (0, 10)),
        ("bytes=0-9", (0, 10)),
        ("00-09", (0, 10)),
        # What is sent for an empty chunk.
        ("0--1", None),
        ("1-0", (1, 1)),
    ],
)
def test_content_range(text: str, span: tuple[int, int] | None) -> None:
    if span is None:
        with pytest.raises(RangeInvalid):
            content_range(request_of(content_range=text))
    else:
        assert content_range(request_of(content_range=text)) == Span(*span)


def test_content_range_where_there_is_none() -> None:
    assert content_range(request_of()) is None


@pytest.mark.parametrize(
    "text",
    ["", "5-3", "a-b", "0-", "-9", "0-9-", " 0-9", "0-9 ", "0 - 9", "0,9", "0-9,10-19", "+0-9", "0-1_0", "٣-٣".encode()
     .decode("latin-1"), "0-" + "9" * 19, "9" * 5000 + "-0", "bytes */10", "lines 0-9/10"],
)  # fmt: skip
def test_content_range_that_is_none(text: str) -> None:
    with pytest.raises(RangeInvalid):
        content_range(request_of(content_range=text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes=0-9", [(0, 10)]),
        ("bytes=0-0", [(0, 1)]),
        ("bytes=9-9", [(9, 10)]),
        ("bytes=3-", [(3, 10)]),
        ("bytes=-3", [(7, 10)]),
        ("bytes=-10", [(0, 10)]),
        ("bytes=-1000", [(0, 10)]),
        ("bytes=5-1000", [(5, 10)]),
        ("bytes=0-" + "9" * 30, [(0, 10)]),
        ("Bytes=1-2", [(1, 3)]),
        ("bytes=0-1,5-6", [(0, 2), (5, 7)]),
        ("bytes= 0-1 ,\t5-6 ", [(0, 2), (5, 7)]),
        ("bytes=5-6,0-1", [(5, 7), (0, 2)]),
        # Of several, what is not there is left out.
        ("bytes=0-1,20-30", [(0, 2)]),
        ("bytes=0-1,,-", [(0, 2)]),
        # All of it, and more than all of it.
        ("bytes=0-4,5-9", [(0, 5), (5, 10)]),
        ("bytes=0-9,0-9", None),
        ("bytes=0-5,5-9", None),
        # Another unit.
        ("lines=0-1", None),
        ("0-1", None),
        ("", None),
    ],
)
def test_ranges(text: str, expected: list[tuple[int, int]] | None) -> None:
    assert spans(text) == expected


def test_ranges_where_there_is_none() -> None:
    assert ranges(request_of(), 10, ETAG) is None


@pytest.mark.parametrize(
    "text", ["10-", "10-20", "5-3", "-0", "-", "", "a-b", "1", "+1-2", "0x1-2", "1-2-3", "1--2", "٣-"]
)
def test_ranges_that_cannot_be_satisfied(text: str) -> None:
    with pytest.raises(RangeInvalid):
        spans("bytes=" + text.encode().decode("latin-1"))


def test_ranges_of_nothing() -> None:
    for text in ("0-", "0-0", "-1"):
        with pytest.raises(RangeInvalid):
            spans("bytes=" + text, size=0)


def test_ranges_are_bounded() -> None:
    size = 4 * MAX_RANGES
    many = [f"{2 * each}-{2 * each}" for each in range(MAX_RANGES)]
    assert len(spans("bytes=" + ",".join(many), size) or ()) == MAX_RANGES
    assert spans("bytes=" + ",".join([*many, "4000-4000"]), size) is None


def test_ranges_on_a_condition() -> None:
    assert spans("bytes=0-1", if_range=ETAG) == [(0, 2)]
    for condition in ('"sha256:other"', f"W/{ETAG}", "Sat, 21 Nov 2026 09:00:00 GMT", "*"):
        assert spans("bytes=0-1", if_range=condition) is None


@settings(max_examples=300, deadline=None)
@given(text=st.text("0123456789-, \t=", max_size=30), size=st.integers(0, 40))
def test_ranges_lie_within(text: str, size: int) -> None:
    try:
        found = spans("bytes=" + text, size)
    except RangeInvalid:
        return
    if found is not None:
        assert all(0 <= start < stop <= size for start, stop in found)
        assert sum(stop - start for start, stop in found) <= size


def test_content_range_of_an_answer() -> None:
    assert Span(2, 5).content_range(10) == b"bytes 2-4/10"
    assert Span(2, 5).size == 3


@pytest.mark.parametrize(
    "text",
    [ETAG, ETAG.strip('"'), f"W/{ETAG}", "*", f'"other", {ETAG}', f'"other",W/{ETAG}', ['"other"', ETAG]],
)
def test_is_known(text: str | list[str]) -> None:
    assert is_known(request_of(if_none_match=text), ETAG)


@pytest.mark.parametrize(
    "text", ["", '"other"', '"sha256:abcd"', '"sha256:ab"', "sha256", "**", '"x,*,y"', '"x, sha256:abc"']
)
def test_is_not_known(text: str) -> None:
    assert not is_known(request_of(if_none_match=text), ETAG)
    assert not is_known(request_of(), ETAG)


@pytest.mark.parametrize("listed", [[ETAG], [ETAG.strip('"')], ["*"], ['"other"', f'"another" , {ETAG}']])
def test_a_change_of_what_the_client_knows(listed: list[str]) -> None:
    request = request_of(if_match=listed)
    assert is_conditional(request)
    assert may_change(request, ETAG)
    assert not may_change(request, None)


@pytest.mark.parametrize("listed", ["", '"other"', f"W/{ETAG}", '"*"', '"x,*,y"', '"x,sha256:abc,y"', '"x", *'])
def test_a_change_of_what_has_changed(listed: str) -> None:
    assert not may_change(request_of(if_match=listed), ETAG)


@pytest.mark.parametrize("listed", ["*", ETAG, f"W/{ETAG}"])
def test_a_change_only_of_what_is_not_there(listed: str) -> None:
    request = request_of(if_none_match=listed)
    assert is_conditional(request)
    assert may_change(request, None)
    assert not may_change(request, ETAG)


def test_a_change_under_both_conditions() -> None:
    both = request_of(if_match=ETAG, if_none_match='"other"')
    assert [may_change(both, etag) for etag in (ETAG, None, '"other"')] == [True, False, False]
    assert not may_change(request_of(if_match="*", if_none_match=ETAG), ETAG)


def test_an_unconditional_change() -> None:
    request = request_of(if_modified_since="Sun, 01 Nov 2026 00:00:00 GMT")
    assert not is_conditional(request)
    assert may_change(request, ETAG) and may_change(request, None)


def test_accepts() -> None:
    request = request_of(accept=["application/json; q=0.5, Text/Plain", "*/*"])
    assert accepts(request) == {"application/json", "text/plain", "*/*"}
    assert accepts(request_of()) == frozenset()
