"""Manifests whose JSON different readers read differently, or that cost much to read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.daemon import Daemon

from .content import OCI_INDEX, OCI_MANIFEST, Repository, descriptor, digest_of, image, index
from .wire import Client

HEADS = 60
SECONDS = 0.5
"""CPU seconds that so many HEADs of a large manifest may cost; to parse it as often would take several."""


def _cpu(daemon: Daemon) -> float:
    fields = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def _artifact(subject: dict[str, object], annotations: str) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "artifactType": "application/x.test",
        "manifests": [],
        "subject": subject,
    }
    return json.dumps(document).encode()[:-1] + b', "annotations": ' + annotations.encode() + b"}"


def test_heads_of_a_large_index_are_cheap(daemon: Daemon, repo: Repository) -> None:
    content = b'{"schemaVersion":2,"manifests":[],"x":[' + b",".join([b'["%s"]' % (b"x" * 33)] * 100_000) + b"]}"
    repo.put("large", content, OCI_INDEX).is_(201)
    target = repo.path("manifests/large")
    assert repo.client.head(target).is_(200).header("Content-Type") == OCI_INDEX
    before = _cpu(daemon)
    for _ in range(HEADS):
        answer = repo.client.head(target).is_(200)
        assert int(answer.header("Content-Length")) == len(content)
    assert _cpu(daemon) - before < SECONDS


def test_millions_of_values_are_refused(daemon: Daemon, repo: Repository) -> None:
    content = b'{"schemaVersion":2,"manifests":[],"x":[' + b",".join([b"[]"] * 1_300_000) + b"]}"
    before = _cpu(daemon)
    repo.put("large", content, OCI_INDEX).refuses(400, "MANIFEST_INVALID")
    assert _cpu(daemon) - before < SECONDS
    repo.get("large").refuses(404)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "lone"])
@pytest.mark.parametrize("content_type", [OCI_INDEX, "application/vnd.example+json", None])
def test_what_is_not_utf_8_is_refused(repo: Repository, encoding: str, content_type: str | None) -> None:
    text = '{"schemaVersion": 2, "manifests": [], "annotations": {"name": "caf\u00e9"}}'
    content = text.encode("utf-8" if encoding == "lone" else encoding)
    if encoding == "lone":  # half of a surrogate pair, as UTF-8 would write it
        content = content.replace("\u00e9".encode(), b"\xed\xa0\x80")
    repo.put("latest", content, content_type).refuses(400, "MANIFEST_INVALID")
    repo.put("latest", text.encode(), content_type).is_(201)


def test_commas_within_a_text_are_no_values(repo: Repository) -> None:
    notes = {"text": ",[{" * 200_000 + '\\"' + "," * 1000}
    repo.push(index(annotations=notes), "latest")
    many = b'{"schemaVersion":2,"manifests":[],"x":["\\\\"' + b",1" * 300_000 + b"]}"
    repo.put("latest", many, OCI_INDEX).refuses(400, "MANIFEST_INVALID")


@pytest.mark.parametrize("said", ['"Config": 1', '"subject": {"name": "a"}', '"annotations": 5', '"artifactType": []'])
def test_keys_in_a_type_of_somebody_elses_are_his(repo: Repository, said: str) -> None:
    content = b'{"schemaVersion": 2, %s}' % said.encode()
    repo.put("latest", content, "application/vnd.example+json").is_(201)
    assert repo.get("latest").is_(200).body == content


def test_the_case_of_a_known_type_does_not_matter(repo: Repository) -> None:
    odd = "Application/Vnd.OCI.image.Manifest.v1+json"
    for config, status in ((descriptor(b"missing", "application/x"), 400), (repo.config(), 201)):
        document = image(config)
        del document["mediaType"]
        repo.put("latest", json.dumps(document).encode(), odd).is_(status)
    assert repo.get("latest").is_(200).header("Content-Type") == OCI_MANIFEST


@pytest.mark.parametrize("told", [r'"\ud800"', r'"a/b\r\nX: 1"', r'"a/b\u0000"', '"text"', '"a/b c"', '""', "7", "[]"])
def test_a_media_type_that_is_none(repo: Repository, client: Client, told: str) -> None:
    content = b'{"schemaVersion": 2, "manifests": [], "mediaType": ' + told.encode() + b"}"
    answer = repo.put("latest", content, None)
    if answer.status == 201:
        # What is taken without a type that can be told can be pulled, as a type that can.
        media_type = repo.get("latest").is_(200).header("Content-Type")
        assert media_type == OCI_INDEX or media_type == "application/octet-stream"
    else:
        answer.refuses(400, "MANIFEST_INVALID")
        repo.get("latest").refuses(404)


@pytest.mark.parametrize(
    "annotations", ['{"a": NaN}', '{"a": Infinity}', '{"a": -Infinity}', '{"a": 1}', '{"a": null}', '{"a": {}}', "[]"]
)
def test_annotations_that_are_no_strings_break_no_list(repo: Repository, annotations: str) -> None:
    subject = repo.image("latest")
    good = _artifact(subject.descriptor(), '{"a": "b"}')
    repo.put(digest_of(good), good, OCI_INDEX).is_(201)
    bad = _artifact(subject.descriptor(), annotations)
    repo.put(digest_of(bad), bad, OCI_INDEX).refuses(400, "MANIFEST_INVALID")
    listed = repo.client.get(repo.path(f"referrers/{subject.digest}")).is_(200)
    document = json.loads(listed.body, parse_constant=pytest.fail)
    assert [entry["digest"] for entry in document["manifests"]] == [digest_of(good)]


def test_keys_that_are_there_twice(repo: Repository) -> None:
    config, layer, other = repo.config(), repo.layer(), repo.layer()
    whole = json.dumps(image(config, layer))
    for more in (f'"layers": {json.dumps([other])}', f'"config": {json.dumps(config)}', '"x": {"a": 1, "a": 2}'):
        content = f"{whole[:-1]}, {more}}}".encode()
        repo.put("latest", content, OCI_MANIFEST).refuses(400, "MANIFEST_INVALID")
    repo.get("latest").refuses(404)


@pytest.mark.parametrize("key", ["Layers", "LAYERS", "Config", "Manifests", "MediaType", "schemaversion", "Subject"])
def test_keys_that_differ_in_case(repo: Repository, key: str) -> None:
    document = {**image(repo.config(), repo.layer()), key: []}
    repo.put("latest", json.dumps(document).encode(), OCI_MANIFEST).refuses(400, "MANIFEST_INVALID")
    repo.get("latest").refuses(404)


def test_keys_of_an_index_that_differ_in_case(repo: Repository) -> None:
    document = {**index(repo.image().descriptor()), "Manifests": [descriptor(b"nowhere", OCI_MANIFEST)]}
    repo.put("latest", json.dumps(document).encode(), OCI_INDEX).refuses(400, "MANIFEST_INVALID")


def test_other_keys_are_taken(repo: Repository) -> None:
    document = {**image(repo.config(), repo.layer()), "x": {"layers": 1, "Layers": 2}, "X-Layers": []}
    repo.put("latest", json.dumps(document).encode(), OCI_MANIFEST).is_(201)
