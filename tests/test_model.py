"""What manifests say: each type, what is refused of it, and that nothing else comes of any bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registryd.errors import ManifestInvalid
from registryd.model import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    DOCKER_SCHEMA1,
    DOCKER_SCHEMA1_SIGNED,
    IMAGES,
    INDEXES,
    OCI_ARTIFACT,
    OCI_INDEX,
    OCI_MANIFEST,
    OCTET_STREAM,
    Descriptor,
    Document,
    Manifest,
    Part,
    read_document,
    told_media_type,
)
from registryd.reference import Digest
from tests.values import JSON, OCI_CONFIG, described, manifest_of

TYPES = [
    *(OCI_MANIFEST, OCI_INDEX, OCI_ARTIFACT, DOCKER_MANIFEST, DOCKER_LIST),
    *(DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED, "application/vnd.example+json"),
]
CONFIG, LAYER, SUBJECT = described(b"{}", OCI_CONFIG), described(b"layer"), described(b"subject", OCI_MANIFEST)
IMAGE: JSON = {"schemaVersion": 2, "config": CONFIG, "layers": [LAYER]}
INDEX: JSON = {"schemaVersion": 2, "manifests": [SUBJECT]}
ARTIFACT: JSON = {"artifactType": "application/x.a", "blobs": [LAYER]}
SHA512 = str(Digest.of(b"x", "sha512"))


def read(document: object, media_type: str = OCI_MANIFEST) -> Document:
    return read_document(manifest_of(document, media_type))


def part(content: bytes, media_type: str, **more: Any) -> Part:
    return Part(Descriptor(media_type, Digest.of(content), len(content)), **more)


CONFIG_PART, LAYER_PART = part(b"{}", OCI_CONFIG), part(b"layer", LAYER["mediaType"])
SUBJECT_PART = part(b"subject", OCI_MANIFEST)


@pytest.mark.parametrize("media_type", sorted(IMAGES))
def test_images(media_type: str) -> None:
    document = read(
        {**IMAGE, "mediaType": media_type, "subject": SUBJECT, "artifactType": "a/b", "annotations": {"k": "v"}},
        media_type,
    )
    assert document == Document(media_type, "a/b", {"k": "v"}, SUBJECT_PART.descriptor, blobs=(CONFIG_PART, LAYER_PART))


@pytest.mark.parametrize("media_type", sorted(IMAGES))
def test_the_artifact_type_of_an_image_is_its_configs(media_type: str) -> None:
    for document in (IMAGE, {**IMAGE, "artifactType": ""}, {**IMAGE, "artifactType": None}):
        assert read(document, media_type).artifact_type == OCI_CONFIG


@pytest.mark.parametrize("media_type", sorted(INDEXES))
def test_indexes(media_type: str) -> None:
    child = {**SUBJECT, "platform": {"os": "linux", "architecture": "arm64"}}
    document = read({**INDEX, "manifests": [child], "subject": SUBJECT, "artifactType": "a/b"}, media_type)
    platform = {"os": "linux", "architecture": "arm64"}
    expected = (part(b"subject", OCI_MANIFEST, platform=platform),)
    assert document == Document(media_type, "a/b", {}, SUBJECT_PART.descriptor, manifests=expected)
    assert read(INDEX, media_type).artifact_type is None


def test_artifacts() -> None:
    document = read({**ARTIFACT, "subject": SUBJECT}, OCI_ARTIFACT)
    assert document == Document(OCI_ARTIFACT, "application/x.a", {}, SUBJECT_PART.descriptor, blobs=(LAYER_PART,))


@pytest.mark.parametrize("media_type", [DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED])
def test_schema_1(media_type: str) -> None:
    layers = [{"blobSum": LAYER["digest"]}, {"blobSum": CONFIG["digest"]}, {"blobSum": LAYER["digest"]}]
    document = read({"schemaVersion": 1, "fsLayers": layers}, media_type)
    assert {str(digest) for digest in document.mentioned} == {LAYER["digest"], CONFIG["digest"]}
    assert (document.blobs, document.manifests, document.subject) == ((), (), None)


def test_types_that_are_not_known() -> None:
    said = {
        "subject": SUBJECT,
        "deep": [{"er": [f"a {SHA512} b", LAYER["digest"]]}, 1, None, True],
        "url": f"https://example.com/v2/x/blobs/{CONFIG['digest']}?x",
        "upper": LAYER["digest"].upper(),
        "long": LAYER["digest"] + "0",
        "again": LAYER["digest"],
    }
    document = read(said, "application/vnd.example+json")
    assert document.subject == SUBJECT_PART.descriptor
    assert {str(digest) for digest in document.mentioned} == {
        SHA512,
        LAYER["digest"],
        CONFIG["digest"],
        SUBJECT["digest"],
    }
    assert len(document.mentioned) == 4
    assert (document.blobs, document.manifests) == ((), ())


def test_urls_and_nothing() -> None:
    urls = ["https://example.com/a"]
    layers = [{**LAYER, "urls": urls}, {**LAYER, "urls": None}, {**LAYER, "urls": []}]
    document = read({**IMAGE, "layers": layers})
    assert [each.urls for each in document.blobs] == [(), ("https://example.com/a",), (), ()]
    nothings: list[object] = [None, []]
    for nothing in nothings:
        assert read({**IMAGE, "layers": nothing}).blobs == (CONFIG_PART,)
    without = dict(IMAGE)
    del without["layers"]
    assert read(without).blobs == (CONFIG_PART,)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"1", b"null", b'"a"', b"\xff", b"{}x", b"[" * 100_000, b"NaN,"])
def test_what_is_no_object(content: bytes) -> None:
    for media_type in TYPES:
        with pytest.raises(ManifestInvalid):
            read_document(Manifest(media_type, Digest.of(content), content))


@pytest.mark.parametrize(
    "document", [{**IMAGE, "manifests": [SUBJECT]}, {**IMAGE, "manifests": []}, {**IMAGE, "manifests": None}]
)
def test_an_image_that_is_an_index_too(document: JSON) -> None:
    # CVE-2021-41190.
    for media_type in (*IMAGES, *INDEXES):
        with pytest.raises(ManifestInvalid):
            read(document, media_type)


@pytest.mark.parametrize("key", ["config", "layers"])
def test_an_index_that_is_an_image_too(key: str) -> None:
    for media_type in INDEXES:
        with pytest.raises(ManifestInvalid):
            read({**INDEX, key: IMAGE[key]}, media_type)


def test_a_type_that_contradicts_the_content_type() -> None:
    for named in TYPES:
        for media_type in TYPES:
            if named != media_type:
                with pytest.raises(ManifestInvalid):
                    read({**IMAGE, "mediaType": named}, media_type)


@pytest.mark.parametrize("named", [1, True, ["a"], {"a": 1}, 1.5])
def test_a_type_that_is_no_text(named: object) -> None:
    for media_type in TYPES:
        with pytest.raises(ManifestInvalid):
            read({**IMAGE, "mediaType": named}, media_type)


@pytest.mark.parametrize("version", [None, 1, 3, "2", [2], 2.5])
def test_another_schema_version(version: object) -> None:
    for media_type, document in (
        (OCI_MANIFEST, IMAGE),
        (DOCKER_MANIFEST, IMAGE),
        (OCI_INDEX, INDEX),
        (DOCKER_LIST, INDEX),
    ):
        with pytest.raises(ManifestInvalid):
            read({**document, "schemaVersion": version}, media_type)
        without = {key: value for key, value in document.items() if key != "schemaVersion"}
        with pytest.raises(ManifestInvalid):
            read(without, media_type)


NO_DIGESTS: list[object] = [None, "", "sha256:abc", 1, LAYER["digest"].upper(), "md5:" + "0" * 32, []]
NO_SIZES: list[object] = [None, -1, "1", 1.0, True, [], {}]
NO_TYPES: list[object] = [1, [], {}]
DESCRIPTORS: list[object] = [
    *(1, "a", [], [LAYER], True, {}),
    *({**LAYER, "digest": digest} for digest in NO_DIGESTS),
    *({**LAYER, "size": size} for size in NO_SIZES),
    *({**LAYER, "mediaType": media_type} for media_type in NO_TYPES),
]


@pytest.mark.parametrize("descriptor", DESCRIPTORS)
def test_descriptors_that_are_none(descriptor: object) -> None:
    cases: list[tuple[str, JSON]] = [
        (OCI_MANIFEST, {**IMAGE, "config": descriptor}),
        (DOCKER_MANIFEST, {**IMAGE, "layers": [LAYER, descriptor]}),
        (OCI_MANIFEST, {**IMAGE, "subject": descriptor}),
        (OCI_INDEX, {**INDEX, "subject": descriptor}),
        (DOCKER_LIST, {**INDEX, "manifests": [descriptor]}),
        (OCI_ARTIFACT, {**ARTIFACT, "blobs": [descriptor]}),
        (OCI_ARTIFACT, {**ARTIFACT, "subject": descriptor}),
    ]
    for media_type, document in cases:
        with pytest.raises(ManifestInvalid):
            read(document, media_type)
    # In a type of somebody else's it may be anything.
    read({"subject": descriptor}, "application/vnd.example")


@pytest.mark.parametrize(
    ("media_type", "document"),
    [
        (OCI_MANIFEST, {**IMAGE, "layers": {}}),
        (OCI_MANIFEST, {**IMAGE, "layers": "a"}),
        (OCI_MANIFEST, {**IMAGE, "layers": [None]}),
        (OCI_MANIFEST, {**IMAGE, "layers": [{**LAYER, "urls": "a"}]}),
        (OCI_MANIFEST, {**IMAGE, "layers": [{**LAYER, "urls": [1]}]}),
        (OCI_MANIFEST, {**IMAGE, "layers": [{**LAYER, "urls": {"a": 1}}]}),
        (OCI_MANIFEST, {**IMAGE, "annotations": []}),
        (OCI_MANIFEST, {**IMAGE, "annotations": "a"}),
        (OCI_MANIFEST, {**IMAGE, "artifactType": 1}),
        (OCI_MANIFEST, {key: value for key, value in IMAGE.items() if key != "config"}),
        (OCI_MANIFEST, {**IMAGE, "config": None}),
        (OCI_INDEX, {**INDEX, "manifests": SUBJECT}),
        (OCI_INDEX, {**INDEX, "manifests": [{**SUBJECT, "platform": "linux"}]}),
        (OCI_INDEX, {**INDEX, "annotations": 1}),
        (OCI_ARTIFACT, {**ARTIFACT, "blobs": LAYER}),
        (DOCKER_SCHEMA1, {"schemaVersion": 1, "fsLayers": "a"}),
        (DOCKER_SCHEMA1, {"schemaVersion": 1, "fsLayers": [{}]}),
        (DOCKER_SCHEMA1, {"schemaVersion": 1, "fsLayers": [{"blobSum": 1}]}),
        (DOCKER_SCHEMA1, {"schemaVersion": 1, "fsLayers": [{"blobSum": "sha256:abc"}]}),
    ],
)
def test_shapes_that_are_refused(media_type: str, document: JSON) -> None:
    with pytest.raises(ManifestInvalid):
        read(document, media_type)


SCALARS = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=True), st.text(max_size=5)),
    *(st.sampled_from(TYPES), st.sampled_from([LAYER["digest"], SHA512, "sha256:abc"])),
)
KEYS = st.one_of(
    st.sampled_from(
        [
            *("schemaVersion", "mediaType", "config", "layers", "manifests", "subject", "artifactType", "annotations"),
            *("blobs", "fsLayers", "blobSum", "digest", "size", "urls", "platform", "signatures"),
        ]
    ),
    st.text(max_size=3),
)
VALUES = st.recursive(
    st.one_of(SCALARS, st.sampled_from([CONFIG, LAYER, SUBJECT])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=8,
)
DOCUMENTS = st.builds(
    lambda beginning, more: {**beginning, **more},
    st.sampled_from([{}, IMAGE, INDEX, ARTIFACT, {"schemaVersion": 1, "fsLayers": [{"blobSum": LAYER["digest"]}]}]),
    st.dictionaries(KEYS, VALUES, max_size=4),
)


@settings(max_examples=600, deadline=None)
@given(document=st.one_of(DOCUMENTS, VALUES), media_type=st.sampled_from(TYPES))
def test_nothing_else_comes_of_any_json(document: object, media_type: str) -> None:
    content = json.dumps(document).encode()
    told_media_type(content)
    try:
        read = read_document(Manifest(media_type, Digest.of(content), content))
    except ManifestInvalid:
        return
    assert all(isinstance(urls, str) for part in (*read.blobs, *read.manifests) for urls in part.urls)
    assert read.media_type == media_type
    assert read.artifact_type is None or (isinstance(read.artifact_type, str) and read.artifact_type)
    assert all(isinstance(key, str) for key in read.annotations)


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=40), media_type=st.sampled_from(TYPES))
def test_nothing_else_comes_of_any_bytes(content: bytes, media_type: str) -> None:
    told_media_type(content)
    with pytest.raises(ManifestInvalid):
        read_document(Manifest(media_type, Digest.of(content), b"!" + content))


@pytest.mark.parametrize("nested", ['{"a":' * 50_000 + "1" + "}" * 50_000, '{"a":' + "[" * 50_000 + "]" * 50_000 + "}"])
def test_depth_without_end(nested: str) -> None:
    content = nested.encode()
    for media_type in TYPES:
        with pytest.raises(ManifestInvalid):
            read_document(Manifest(media_type, Digest.of(content), content))
    assert told_media_type(content) == (OCTET_STREAM, False)


def test_numbers_without_end() -> None:
    content = b'{"schemaVersion": 2, "a": ' + b"9" * 10_000 + b"}"
    with pytest.raises(ManifestInvalid):
        read_document(Manifest(OCI_MANIFEST, Digest.of(content), content))
    told_media_type(content)


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"mediaType": "a/b"}, ("a/b", True)),
        ({**IMAGE, "mediaType": DOCKER_MANIFEST}, (DOCKER_MANIFEST, True)),
        (IMAGE, (OCI_MANIFEST, False)),
        ({**IMAGE, "mediaType": ""}, (OCI_MANIFEST, False)),
        ({**IMAGE, "mediaType": 1}, (OCI_MANIFEST, False)),
        (INDEX, (OCI_INDEX, False)),
        ({**INDEX, "manifests": []}, (OCI_INDEX, False)),
        ({"schemaVersion": 1, "fsLayers": []}, (DOCKER_SCHEMA1, False)),
        ({"schemaVersion": 1, "signatures": []}, (DOCKER_SCHEMA1_SIGNED, False)),
        ({"schemaVersion": 1, "mediaType": "a/b"}, ("a/b", True)),
        ({}, (OCI_MANIFEST, False)),
        ([], (OCTET_STREAM, False)),
        (None, (OCTET_STREAM, False)),
    ],
)
def test_told_media_type(document: object, told: tuple[str, bool]) -> None:
    assert told_media_type(json.dumps(document).encode()) == told


def test_told_media_type_of_what_is_not_json() -> None:
    for content in (b"", b"{", b"\xff\xfe", b"[" * 100_000):
        assert told_media_type(content) == (OCTET_STREAM, False)


def test_a_manifest_describes_itself() -> None:
    manifest = manifest_of(IMAGE)
    assert manifest.descriptor == Descriptor(OCI_MANIFEST, manifest.digest, len(manifest.content))
    assert repr(manifest.content) not in repr(manifest)
