"""The referrers API: what refers to a manifest by its subject."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from tests.daemon import Daemon

from .content import (
    OCI_ARTIFACT,
    OCI_CONFIG,
    OCI_EMPTY,
    OCI_INDEX,
    OCI_MANIFEST,
    Document,
    Pushed,
    Repository,
    absent,
    descriptor,
    digest_of,
    encode,
    image,
    index,
)
from .trees import LAYERS, REVISIONS, write, write_tag
from .wire import Client, Response, link_of

EMPTY = descriptor(b"{}", OCI_EMPTY)
SBOM = "application/vnd.example.sbom.v1+json"
SIGNATURE = "application/vnd.example.signature.v1"


def listed(response: Response) -> list[Document]:
    """The descriptors of a referrers answer, whose form is checked."""
    response.is_(200)
    assert response.header("Content-Type") == OCI_INDEX
    document = response.json()
    assert document["schemaVersion"] == 2 and document["mediaType"] == OCI_INDEX
    descriptors: list[Document] = document["manifests"]
    assert isinstance(descriptors, list)
    return descriptors


def referrers(repo: Repository, subject: str, query: str = "") -> list[Document]:
    return listed(repo.client.get(repo.path(f"referrers/{subject}{query}")))


def by_digest(*descriptors: Document) -> list[Document]:
    return sorted(descriptors, key=lambda each: str(each["digest"]))


@pytest.fixture
def subject(repo: Repository) -> Pushed:
    """An image in the repository, which has the blob ``{}`` too."""
    repo.blob(b"{}")
    return repo.image("subject")


def test_none(repo: Repository, subject: Pushed) -> None:
    assert referrers(repo, subject.digest) == []
    assert referrers(repo, absent()) == []
    assert referrers(repo, absent("sha512")) == []


def test_unknown_repository(client: Client, repo: Repository) -> None:
    assert referrers(repo, absent()) == []
    client.head(repo.path(f"referrers/{absent()}")).is_(200)


@pytest.mark.parametrize(
    "digest", ["sha256:bad", "bad", "latest", "md5:d41d8cd98f00b204e9800998ecf8427e", "%00", "%2e%2e"]
)
def test_malformed_digest(client: Client, repo: Repository, digest: str) -> None:
    client.get(repo.path(f"referrers/{digest}")).refuses(400, "DIGEST_INVALID")


def test_image_artifact_and_index(repo: Repository, subject: Pushed) -> None:
    of: Document = {"subject": subject.descriptor()}
    notes = {"org.example.note": 'é " \\ \n', "empty": ""}
    plain = repo.push(image(descriptor(b"{}", OCI_CONFIG), **of))
    typed = repo.push(image(EMPTY, artifactType=SBOM, annotations=notes, **of), "sbom")
    untyped = repo.push(image(EMPTY, artifactType="", **of))
    bare_index = repo.push(index(annotations={"a": "b"}, **of))
    typed_index = repo.push(index(artifactType=SIGNATURE, **of))
    artifact = repo.push({"mediaType": OCI_ARTIFACT, "artifactType": SBOM, "blobs": [], "annotations": notes, **of})
    assert by_digest(*referrers(repo, subject.digest)) == by_digest(
        plain.descriptor(artifactType=OCI_CONFIG),
        typed.descriptor(artifactType=SBOM, annotations=notes),
        untyped.descriptor(artifactType=OCI_EMPTY),
        bare_index.descriptor(annotations={"a": "b"}),
        typed_index.descriptor(artifactType=SIGNATURE),
        artifact.descriptor(artifactType=SBOM, annotations=notes),
    )


def test_filter(client: Client, repo: Repository, subject: Pushed) -> None:
    of: Document = {"subject": subject.descriptor()}
    sbom = repo.push(image(EMPTY, artifactType=SBOM, **of))
    signature = repo.push(image(EMPTY, artifactType=SIGNATURE, **of))
    plain = repo.push(image(EMPTY, **of))
    repo.push(index(**of))
    path = repo.path(f"referrers/{subject.digest}")
    for asked, expected in ((SBOM, [sbom]), (SIGNATURE, [signature]), (OCI_EMPTY, [plain]), ("none/such", [])):
        response = client.get(f"{path}?artifactType={quote(asked, safe='')}")
        assert [each["digest"] for each in listed(response)] == [each.digest for each in expected]
        assert response.header("OCI-Filters-Applied") == "artifactType"
    response = client.get(path)
    assert response.all("OCI-Filters-Applied") == [] and len(listed(response)) == 4
    # As containerd asks for several, and as one who does not encode a plus.
    response = client.get(f"{path}?artifactType={quote(SBOM, safe='')}&artifactType={SIGNATURE}&artifactType=")
    assert {each["digest"] for each in listed(response)} == {sbom.digest, signature.digest}
    response = client.get(f"{path}?artifactType={SBOM}")
    assert "+" in SBOM and [each["digest"] for each in listed(response)] == [sbom.digest]
    assert client.get(f"{path}?unknown=filter").all("OCI-Filters-Applied") == []


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("later", [True, False])
def test_before_and_after_the_subject(repo: Repository, algorithm: str, later: bool) -> None:
    repo.blob(b"{}")
    content = encode(image(EMPTY, annotations={"for": repo.name}))
    digest = digest_of(content, algorithm)
    subject = {"mediaType": OCI_MANIFEST, "digest": digest, "size": len(content)}
    if not later:
        repo.put(digest, content, OCI_MANIFEST).is_(201)
    referrer = encode(image(EMPTY, artifactType=SBOM, subject=subject))
    response = repo.put(digest_of(referrer, algorithm), referrer, OCI_MANIFEST).is_(201)
    assert response.header("OCI-Subject") == digest
    assert [each["digest"] for each in referrers(repo, digest)] == [digest_of(referrer, algorithm)]
    if later:
        repo.put(digest, content, OCI_MANIFEST).is_(201)
    assert len(referrers(repo, digest)) == 1


def test_only_of_this_repository(repo: Repository, other: Repository, subject: Pushed) -> None:
    other.blob(b"{}")
    other.push(image(EMPTY, subject=subject.descriptor()))
    assert referrers(repo, subject.digest) == []
    assert len(referrers(other, subject.digest)) == 1


def test_a_referrer_of_a_referrer(repo: Repository, subject: Pushed) -> None:
    first = repo.push(image(EMPTY, subject=subject.descriptor()))
    second = repo.push(image(EMPTY, subject=first.descriptor()))
    assert [each["digest"] for each in referrers(repo, subject.digest)] == [first.digest]
    assert [each["digest"] for each in referrers(repo, first.digest)] == [second.digest]


def test_deletion(client: Client, repo: Repository, subject: Pushed) -> None:
    gone = repo.push(image(EMPTY, artifactType=SBOM, subject=subject.descriptor()), "sbom")
    kept = repo.push(image(EMPTY, artifactType=SIGNATURE, subject=subject.descriptor()))
    client.delete(repo.path("manifests/sbom")).is_(202)
    assert len(referrers(repo, subject.digest)) == 2
    client.delete(repo.path(f"manifests/{gone.digest}")).is_(202)
    assert [each["digest"] for each in referrers(repo, subject.digest)] == [kept.digest]
    # What refers outlives its subject, and comes back with it.
    client.delete(repo.path(f"manifests/{subject.digest}")).is_(202)
    assert [each["digest"] for each in referrers(repo, subject.digest)] == [kept.digest]
    repo.put(gone.digest, gone.content, OCI_MANIFEST).is_(201)
    assert len(referrers(repo, subject.digest)) == 2


def all_pages(client: Client, path: str) -> tuple[list[Document], int]:
    """The descriptors of all pages, and how many pages there are."""
    found: list[Document] = []
    pages = 0
    following: str | None = path
    while following is not None:
        response = client.get(following)
        assert len(response.body) <= 4 * 1024 * 1024
        page = listed(response)
        assert page or pages == 0, "an empty page in between"
        found += page
        pages += 1
        assert pages < 50, "pages without end"
        following = link_of(response)
    return found, pages


def test_pages(client: Client, repo: Repository, subject: Pushed) -> None:
    of: Document = {"subject": subject.descriptor()}
    pushed = [
        repo.push(image(EMPTY, artifactType=type_, annotations={"large": "x" * size, "n": str(number)}, **of))
        for type_ in (SBOM, SIGNATURE)
        for number, size in enumerate((10, 1_000_000, 1_500_000, 1_900_000, 4_100_000))
    ]
    path = repo.path(f"referrers/{subject.digest}")
    found, pages = all_pages(client, path)
    assert sorted(each["digest"] for each in found) == sorted(each.digest for each in pushed)
    assert pages > 3
    found, pages = all_pages(client, f"{path}?artifactType={quote(SBOM)}")
    assert sorted(each["digest"] for each in found) == sorted(each.digest for each in pushed[:5])
    assert pages > 1
    found, pages = all_pages(client, f"{path}?artifactType={quote(SBOM)}&artifactType={quote(SIGNATURE)}")
    assert sorted(each["digest"] for each in found) == sorted(each.digest for each in pushed)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_those_of_an_old_tree_by_the_tag_schema(daemon: Daemon, repo: Repository, algorithm: str) -> None:
    subject = absent(algorithm)
    write(daemon, repo.name, LAYERS, b"{}")
    of: Document = {"subject": {"mediaType": OCI_MANIFEST, "digest": subject, "size": 7}}
    contents = [
        encode(image(EMPTY, artifactType=SBOM, annotations={"a": "b"}, **of)),
        encode(image(EMPTY, **of)),
        encode(image(EMPTY, artifactType=SBOM)),  # has no subject
        encode(image(EMPTY, subject={"mediaType": OCI_MANIFEST, "digest": absent(), "size": 7})),  # has another
    ]
    children: list[Document] = [
        {"mediaType": OCI_MANIFEST, "digest": write(daemon, repo.name, REVISIONS, content), "size": len(content)}
        for content in contents
    ]
    children.append({"mediaType": OCI_MANIFEST, "digest": absent(), "size": 7})  # is not there
    old = index(*children)
    kind, encoded = subject.split(":")
    write_tag(daemon, repo.name, f"{kind}-{encoded[:64]}", write(daemon, repo.name, REVISIONS, encode(old)))
    first = {**children[0], "artifactType": SBOM, "annotations": {"a": "b"}}
    second = {**children[1], "artifactType": OCI_EMPTY}
    assert by_digest(*referrers(repo, subject)) == by_digest(first, second)
    assert referrers(repo, subject, f"?artifactType={quote(SBOM, safe='')}") == [first]
    # One that is pushed now joins them, and one that is pushed again is not doubled.
    repo.put(str(children[1]["digest"]), contents[1], OCI_MANIFEST).is_(201)
    new = repo.push(image(EMPTY, artifactType=SIGNATURE, **of))
    assert sorted(each["digest"] for each in referrers(repo, subject)) == sorted(
        [children[0]["digest"], children[1]["digest"], new.digest]
    )


@pytest.mark.parametrize(
    "content", [b"", b"no JSON", b"[]", b"{}", encode(image(EMPTY)), encode({**index(), "manifests": [7, {}]})]
)
def test_a_tag_of_that_name_which_is_no_index_is_passed_over(daemon: Daemon, repo: Repository, content: bytes) -> None:
    repo.blob(b"{}")
    subject = absent()
    referrer = repo.push(image(EMPTY, subject={"mediaType": OCI_MANIFEST, "digest": subject, "size": 7}))
    revision = write(daemon, repo.name, REVISIONS, content)
    write_tag(daemon, repo.name, subject.replace(":", "-"), revision)
    assert [each["digest"] for each in referrers(repo, subject)] == [referrer.digest]


def test_annotations_that_are_none(repo: Repository, subject: Pushed) -> None:
    pushed = repo.push({**image(EMPTY, subject=subject.descriptor()), "annotations": None})
    (found,) = referrers(repo, subject.digest)
    assert found["digest"] == pushed.digest
    assert json.dumps(found.get("annotations")) in ("null", "{}")
