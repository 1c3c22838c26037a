"""The chunked coding: any cut of a valid stream gives the same bytes, and nothing else is taken for one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registryd.http.chunked import LINE_LIMIT, TRAILER_LIMIT, ChunkedDecoder, MalformedChunkError
from tests.values import split

ABC = b"3\r\nabc\r\n"
END = b"0\r\n\r\n"
NEXT = b"GET / HTTP/1.1\r\n\r\n"


class Decoded:
    """What a stream came to."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces: list[bytes] = []
        self.rest: list[bytes] = []
        self.decoder = ChunkedDecoder(lambda data: self.pieces.append(bytes(data)), self.rest.append)
        for number, piece in enumerate(pieces):
            self.decoder.dataReceived(piece)
            if self.rest:
                self.rest += pieces[number + 1 :]
                break

    @property
    def content(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def following(self) -> bytes | None:
        """What follows the body, or None where it has not ended."""
        return b"".join(self.rest) if self.rest else None


def assert_refused(stream: bytes) -> None:
    for cuts in ([], list(range(len(stream)))):
        with pytest.raises(MalformedChunkError):
            Decoded(*split(stream, cuts))


TOKENS = st.text("abcXYZ019!#$%&'*+-.^_`|~", min_size=1, max_size=6)
EXTENSIONS = st.tuples(TOKENS, st.one_of(st.none(), TOKENS, st.just('"a;b \\" \\\\ \t"'))).map(
    lambda pair: pair[0] if pair[1] is None else f"{pair[0]}={pair[1]}"
)
SPACES = st.sampled_from(["", " ", "\t", " \t "])


@st.composite
def size_lines(draw: st.DrawFn, size: int) -> bytes:
    digits = format(size, "x")
    digits = draw(st.sampled_from([digits, digits.upper(), digits.zfill(draw(st.integers(1, 16)))]))
    extensions = draw(st.lists(st.tuples(SPACES, SPACES, EXTENSIONS), max_size=2))
    return (digits + "".join(f"{before};{after}{text}" for before, after, text in extensions)).encode() + b"\r\n"


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A content, and a valid coding of it."""
    chunks = draw(st.lists(st.one_of(st.binary(min_size=1, max_size=40), st.sampled_from([b"\r\n", END, b"0\r\n"]))))
    coded = b"".join(draw(size_lines(len(chunk))) + chunk + b"\r\n" for chunk in chunks)
    trailers = draw(st.lists(st.tuples(TOKENS, st.text("ab :;\t", max_size=9)), max_size=3))
    trailer = "".join(f"{name}: {value}\r\n" for name, value in trailers).encode()
    return b"".join(chunks), coded + draw(size_lines(0)) + trailer + b"\r\n"


@settings(max_examples=300, deadline=None)
@given(
    stream=streams(), cuts=st.lists(st.integers(0, 400), max_size=12), following=st.sampled_from([b"", b"\r\n", NEXT])
)
def test_any_cut_of_a_valid_stream_gives_its_content(
    stream: tuple[bytes, bytes], cuts: Sequence[int], following: bytes
) -> None:
    content, coded = stream
    decoded = Decoded(*split(coded + following, cuts))
    assert (decoded.content, decoded.following) == (content, following)
    decoded = Decoded(*split(coded + following, range(len(coded + following))))
    assert (decoded.content, decoded.following) == (content, following)


@settings(max_examples=100, deadline=None)
@given(stream=streams(), data=st.data())
def test_a_stream_that_ends_too_soon_is_no_whole(stream: tuple[bytes, bytes], data: st.DataObject) -> None:
    content, coded = stream
    decoded = Decoded(coded[: data.draw(st.integers(0, len(coded) - 1))])
    assert decoded.following is None
    assert content.startswith(decoded.content)


@settings(max_examples=300, deadline=None)
@given(stream=st.binary(max_size=60), cuts=st.lists(st.integers(0, 60), max_size=5))
def test_anything_is_decoded_alike_in_any_cut(stream: bytes, cuts: Sequence[int]) -> None:
    outcomes = []
    for pieces in ([stream], split(stream, cuts)):
        try:
            decoded = Decoded(*pieces)
            outcomes.append((decoded.content, decoded.following))
        except MalformedChunkError:
            outcomes.append((b"malformed", None))
    assert outcomes[0] == outcomes[1]


def test_the_data_of_a_large_chunk_is_passed_on_as_it_comes() -> None:
    decoded = Decoded(b"100000\r\n")
    for _ in range(16):
        decoded.decoder.dataReceived(bytes(65536))
    assert list(map(len, decoded.pieces)) == [65536] * 16


@pytest.mark.parametrize(
    "stream",
    [
        b"-1\r\n",
        b"-3\r\nabc\r\n" + END,
        b"+3\r\nabc\r\n" + END,
        b"0x3\r\nabc\r\n" + END,
        b"0X3\r\nabc\r\n" + END,
        b"3_0\r\n",
        b"3h\r\n",
        b" 3\r\nabc\r\n" + END,
        b"\t3\r\nabc\r\n" + END,
        b"3 3\r\nabc\r\n" + END,
        b"3,3\r\n",
        b"\xd9\xa3\r\nabc\r\n" + END,
        b"\r\n3\r\nabc\r\n" + END,
        b";x\r\n",
        b"g\r\n",
        b"3\x00\r\nabc\r\n" + END,
        b"3\x0b\r\nabc\r\n" + END,
    ],
)
def test_sizes_that_are_none(stream: bytes) -> None:
    assert_refused(stream)


def test_sizes_up_to_64_bits() -> None:
    assert Decoded(b"FFFFFFFFFFFFFFFF\r\nabc").content == b"abc"
    assert Decoded(b"0000000000000003\r\nabc").content == b"abc"
    for size in (b"10000000000000000", b"00000000000000003", b"F" * 40, b"9" * 1000):
        assert_refused(size + b"\r\nabc")


@pytest.mark.parametrize(
    "stream",
    [
        b"3\nabc\n0\n\n" + b"\r\n",
        b"3\nabc\r\n" + END,
        b"3\r\nabc\n0\r\n\r\n",
        b"3\rabc\r\n" + END,
        b"3\r\nabc\r0\r\n\r\n",
        b"3;x\ny\r\nabc\r\n" + END,
        b"3;x\ry\r\nabc\r\n" + END,
        b"3;x\r\r\nabc\r\n" + END,
        b"3;\x00\r\nabc\r\n" + END,
        b"3;\x7f\r\nabc\r\n" + END,
    ],
)
def test_lines_that_end_otherwise(stream: bytes) -> None:
    assert_refused(stream)


@pytest.mark.parametrize(
    "stream",
    [
        b"3\r\nabcd\r\n" + END,
        b"3\r\nabc\r\n\r\n" + END,
        b"3\r\nabc" + END + b"\r\n",
        b"3\r\nab\r\n" + END,
        b"4\r\nabc\r\n" + END,
        b"3\r\nabcGET / HTTP/1.1\r\n\r\n",
    ],
)
def test_chunks_of_another_size(stream: bytes) -> None:
    assert_refused(stream)


def test_lines_are_bounded() -> None:
    fits = b"3;" + b"x" * (LINE_LIMIT - 4)
    assert Decoded(fits + b"\r\nabc").content == b"abc"
    assert_refused(fits + b"xxx\r\nabc")
    with pytest.raises(MalformedChunkError):
        Decoded(b"3;" + b"x" * LINE_LIMIT)
    with pytest.raises(MalformedChunkError):
        Decoded(*[b"3"] * (LINE_LIMIT + 1))


def test_what_is_kept_of_a_line_is_bounded() -> None:
    decoded = Decoded(b"0\r\n", *[b"A"] * (LINE_LIMIT - 1))
    with pytest.raises(MalformedChunkError):
        decoded.decoder.dataReceived(b"A")


def test_trailers_are_dropped() -> None:
    decoded = Decoded(ABC + b"0\r\nDigest: x\r\nContent-Length: 5\r\n\r\n" + NEXT)
    assert (decoded.content, decoded.following) == (b"abc", NEXT)


def test_trailers_are_bounded() -> None:
    line = b"A: " + b"a" * 995 + b"\r\n"
    whole = TRAILER_LIMIT // len(line)
    assert Decoded(ABC + b"0\r\n" + line * whole + b"\r\n").following == b""
    assert_refused(b"0\r\n" + line * (whole + 1) + b"\r\n")
    assert_refused(b"0\r\n" + b"A: a\r\n" * 20_000)


@pytest.mark.parametrize(
    "trailer",
    [b"A: b\nC: d\r\n", b"\n\r\n", b"A: b\r\r\n", b"A: \x00\r\n", b"no colon\r\n", b" folded: x\r\n", b": x\r\n"],
)
def test_trailers_that_are_no_fields(trailer: bytes) -> None:
    assert_refused(b"0\r\n" + trailer + b"\r\n")


def test_nothing_is_taken_after_the_end() -> None:
    finished: list[bytes] = []
    decoder = ChunkedDecoder(lambda data: None, finished.append)
    decoder.dataReceived(ABC + END + ABC + END)
    assert finished == [ABC + END]
