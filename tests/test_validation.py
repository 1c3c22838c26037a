"""What a configuration's validation section lets be pushed."""

from __future__ import annotations

import pytest

from registryd.config import Pattern, Platform, Urls, Validation
from registryd.errors import ManifestInvalid
from registryd.model import DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED, OCI_INDEX, OCI_MANIFEST, Part, read_document
from registryd.validation import Rules
from tests.values import described, manifest_of

GOOD, BAD = "https://good.example/x", "https://bad.example/x"
GOOD_PATTERN, BAD_PATTERN = Pattern("^https://good\\.example/"), Pattern("bad")


def rules(
    urls: Urls | None = None, disabled: bool = False, platforms: str = "all", listed: tuple[Platform, ...] = ()
) -> Rules:
    return Rules(Validation(disabled, urls, platforms, listed))


def accepts(rules: Rules, *urls: str) -> bool:
    """Whether an image with a layer of some URLs may be pushed."""
    document = {"schemaVersion": 2, "config": described(b"{}"), "layers": [described(b"l", urls=list(urls))]}
    try:
        rules.check(read_document(manifest_of(document)), OCI_MANIFEST)
    except ManifestInvalid:
        return False
    return True


def part(**more: object) -> Part:
    """A child of an index."""
    document = {"schemaVersion": 2, "manifests": [described(b"child", OCI_MANIFEST, **more)]}
    return read_document(manifest_of(document, OCI_INDEX)).manifests[0]


@pytest.mark.parametrize(
    ("allow", "deny", "good", "bad"),
    [
        ((), (), False, False),
        ((GOOD_PATTERN,), (), True, False),
        ((), (BAD_PATTERN,), True, False),
        ((GOOD_PATTERN,), (BAD_PATTERN,), True, False),
        ((Pattern("."),), (BAD_PATTERN,), True, False),
        ((Pattern("."),), (Pattern("."),), False, False),
        ((GOOD_PATTERN, BAD_PATTERN), (), True, True),
        ((), (Pattern("other"), BAD_PATTERN), True, False),
    ],
)
def test_lists(allow: tuple[Pattern, ...], deny: tuple[Pattern, ...], good: bool, bad: bool) -> None:
    checked = rules(Urls(allow, deny))
    assert (accepts(checked, GOOD), accepts(checked, BAD)) == (good, bad)
    assert accepts(checked, GOOD, BAD) == (good and bad)
    assert accepts(checked)
    assert accepts(rules(Urls(allow, deny), disabled=True), GOOD, BAD)


def test_no_lists_allow_all() -> None:
    assert accepts(rules(), GOOD, BAD, "http://example.com", "https://user@h:8443/a?b=c")


@pytest.mark.parametrize(
    "url",
    [
        *("", "a", "/a", "//example.com/a", "http://", "https:///a", "http:a", "ftp://h/a", "file:///etc/passwd"),
        *("javascript:alert(1)", "https://h/a#fragment", "http://[::1/a", "s3://bucket/a"),
    ],
)
def test_what_is_no_url_of_a_layer(url: str) -> None:
    assert not accepts(rules(), url)
    assert not accepts(rules(Urls((Pattern("."),), ())), url)
    assert accepts(rules(disabled=True), url)


@pytest.mark.parametrize("url", [" http://h/a", "http://h/a\n", "http://h\t.example/a", "ht\ntp://h/a", "\0http://h/a"])
def test_what_is_no_url_though_some_parsers_mend_it(url: str) -> None:
    assert not accepts(rules(), url)


@pytest.mark.parametrize("media_type", [DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED])
def test_schema_1_is_refused(media_type: str) -> None:
    document = read_document(manifest_of({"schemaVersion": 1, "fsLayers": []}, media_type))
    for checked in (rules(), rules(disabled=True)):
        with pytest.raises(ManifestInvalid):
            checked.check(document, media_type)


def test_schema_1_under_another_type_is_refused() -> None:
    document = read_document(manifest_of({"schemaVersion": 1, "fsLayers": []}, "application/vnd.example+json"))
    with pytest.raises(ManifestInvalid):
        rules().check(document, DOCKER_SCHEMA1)


def test_blobs_that_are_required() -> None:
    assert rules().requires_blob(part())
    assert not rules().requires_blob(part(urls=[GOOD]))
    assert rules().requires_blob(part(urls=[]))
    assert not rules(disabled=True).requires_blob(part())


LINUX = Platform("linux", "amd64")


@pytest.mark.parametrize(
    ("platform", "required"),
    [
        ({"os": "linux", "architecture": "amd64"}, True),
        ({"os": "linux", "architecture": "amd64", "variant": "v2"}, True),
        ({"os": "linux", "architecture": "arm64"}, False),
        ({"os": "windows", "architecture": "amd64"}, False),
        ({"os": "linux"}, False),
        ({"architecture": "amd64", "os": 1}, False),
        ({}, False),
        (None, False),
    ],
)
def test_children_of_listed_platforms_are_required(platform: dict[str, object] | None, required: bool) -> None:
    child = part(platform=platform)
    assert rules(platforms="list", listed=(Platform("a", "b"), LINUX)).requires_manifest(child) == required
    assert not rules(platforms="list").requires_manifest(child)
    assert rules(platforms="all", listed=(LINUX,)).requires_manifest(child)
    assert not rules(platforms="none", listed=(LINUX,)).requires_manifest(child)
    assert not rules(disabled=True).requires_manifest(child)
