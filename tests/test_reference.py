"""Names, tags and digests: what is one, and what can never be one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registryd.errors import DigestInvalid, NameInvalid, TagInvalid
from registryd.reference import ALGORITHMS, Digest, is_name, is_tag, new_hash, parse_name, parse_reference, parse_tag
from registryd.storage import layout

SHA256 = "sha256:" + "0123456789abcdef" * 4
SHA512 = "sha512:" + "0123456789abcdef" * 8

NAMES = ["a", "0", "a/b", "a/b/c/d/e/f", "a.b", "a_b", "a__b", "a-b", "a---b", "0a/b.c/d_e/f__g/h--i", "a" * 255]
NO_NAMES = [
    *("", "/", "a/", "/a", "a//b", "A", "aB", "a b", "a\n", "\na", "a\0", "ä", "٣", "a:b", "a@b", "a+b", "a~b", "%61"),
    *("-a", "a-", ".a", "a.", "_a", "a_", "a..b", "a___b", "a._b", "a.-b", "a-_b", "a/.b", "a/-b", "a/_b", "a/b-"),
    *(
        ".",
        "..",
        "../a",
        "a/../b",
        "a/./b",
        "_catalog",
        "_uploads",
        "a/_layers",
        "a/_manifests/tags",
        "a\\b",
        "a" * 256,
    ),
]
TAGS = ["latest", "v1", "1.0", "_", "A", "a.b-c_d", "a..b", "a-", "a" * 128, "V1.2.3-rc.1_x"]
NO_TAGS = [
    "",
    ".",
    "..",
    "-a",
    ".a",
    "a" * 129,
    "a b",
    "a/b",
    "a:b",
    "a\n",
    "\na",
    "ä",
    "٣",
    "a+b",
    "a\0",
    "a@b",
    "%61",
]
DIGESTS = [SHA256, SHA512]
NO_DIGESTS = [
    *("", ":", "sha256", "sha256:", SHA256[:-1], SHA256 + "0", SHA256.upper(), "SHA256" + SHA256[6:]),
    *("sha256:" + SHA512[7:], "sha512:" + SHA256[7:], "sha384:" + "0" * 96, "md5:" + "0" * 32, "sha1:" + "0" * 40),
    *(SHA256 + "\n", " " + SHA256, SHA256[:-1] + "g", SHA256[:-1] + "٣", SHA256.replace(":", "-"), "sha256+b64:a"),
    *("sha256:../../" + "0" * 58, "sha256:" + "/" * 64, "sha256::" + "0" * 63, SHA256 + SHA256, SHA256 + "|" + SHA512),
]


@pytest.mark.parametrize("text", NAMES)
def test_names(text: str) -> None:
    assert parse_name(text) == text
    assert is_name(text)


@pytest.mark.parametrize("text", NO_NAMES)
def test_what_is_no_name(text: str) -> None:
    assert not is_name(text)
    with pytest.raises(NameInvalid):
        parse_name(text)


@pytest.mark.parametrize("text", TAGS)
def test_tags(text: str) -> None:
    assert parse_tag(text) == parse_reference(text) == text
    assert is_tag(text)


@pytest.mark.parametrize("text", NO_TAGS)
def test_what_is_no_tag(text: str) -> None:
    assert not is_tag(text)
    with pytest.raises(TagInvalid):
        parse_tag(text)


@pytest.mark.parametrize("text", DIGESTS)
def test_digests(text: str) -> None:
    digest = Digest.parse(text)
    assert str(digest) == text
    assert digest == parse_reference(text)
    assert f"{digest.algorithm}:{digest.hex}" == text


@pytest.mark.parametrize("text", NO_DIGESTS)
def test_what_is_no_digest(text: str) -> None:
    with pytest.raises(DigestInvalid):
        Digest.parse(text)


@pytest.mark.parametrize("text", ["a:b", "latest:", ":latest", "sha256:abc", "sha999:" + "0" * 64])
def test_what_has_a_colon_is_no_tag(text: str) -> None:
    with pytest.raises(DigestInvalid):
        parse_reference(text)


def test_details_of_refusals_are_bounded() -> None:
    calls: list[Callable[[str], object]] = [parse_name, parse_tag, Digest.parse, new_hash]
    for call in calls:
        with pytest.raises((NameInvalid, TagInvalid, DigestInvalid)) as caught:
            call("x!" * 100_000)
        assert len(str(caught.value.entries())) < 1000


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.sampled_from("aA0._-/:\n\0 ä"), max_size=12))
def test_no_name_or_tag_leads_out_of_its_folder(text: str) -> None:
    if is_name(text):
        path = layout.repository(parse_name(text))
        assert all(part and part[0] not in "._" for part in path.removeprefix(layout.REPOSITORIES + "/").split("/"))
    if is_tag(text):
        assert "/" not in text and text not in (".", "..")


def test_digests_of_content() -> None:
    assert str(Digest.of(b"abc")) == "sha256:" + hashlib.sha256(b"abc").hexdigest()
    assert str(Digest.of(b"abc", "sha512")) == "sha512:" + hashlib.sha512(b"abc").hexdigest()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_hashes(algorithm: str) -> None:
    hashed = new_hash(algorithm)
    hashed.update(b"a")
    hashed.update(b"bc")
    assert hashed.hexdigest() == Digest.of(b"abc", algorithm).hex


@pytest.mark.parametrize("algorithm", ["", "md5", "sha1", "sha384", "SHA256", "sha3_256", "shake_256", "sha256 "])
def test_hashes_that_are_not_supported(algorithm: str) -> None:
    with pytest.raises(DigestInvalid):
        new_hash(algorithm)


def test_digests_are_in_the_order_of_their_text() -> None:
    texts = [SHA512, SHA256, "sha256:" + "f" * 64, "sha256:" + "0" * 64]
    assert [str(digest) for digest in sorted(map(Digest.parse, texts))] == sorted(texts)


def test_referrers_tag() -> None:
    assert Digest.parse(SHA256).referrers_tag == SHA256.replace(":", "-")
    # At most 64 digits: a tag has no more than 128 characters.
    assert Digest.parse(SHA512).referrers_tag == SHA512.replace(":", "-")[: len("sha512-") + 64]
    assert all(is_tag(Digest.parse(text).referrers_tag) for text in DIGESTS)
