"""What clients should know of an answer."""

from __future__ import annotations

import re

import attrs
import pytest
from twisted.internet.defer import Deferred

from registryd.interfaces import IRegistry, Page, ReferrerPage
from registryd.model import DOCKER_LIST, DOCKER_MANIFEST, Descriptor, Manifest
from registryd.reference import Digest, Reference, RepositoryName, Tag
from registryd.storage.memory import MemoryDriver
from registryd.unsupported import UnsupportedRegistry
from tests.values import LATEST, NAME, image, listed, local_registry, manifest_of, put_blob

from .in_process import InProcess
from .wire import Response

CONFIG = b"{}"
IMAGE = image(CONFIG)
OLD_DOCKER = {"Accept": DOCKER_MANIFEST}
STALE = "upstream docker.io is unreachable: this may be out of date"


class Stale(UnsupportedRegistry):
    """A registry whose tags, and the lists of which, may be out of date."""

    def __init__(self, registry: IRegistry, warning: str) -> None:
        self._registry = registry
        self._warning = warning

    def get_manifest(self, name: RepositoryName, reference: Reference) -> Deferred[Manifest]:
        found = self._registry.get_manifest(name, reference)
        return found if isinstance(reference, Digest) else found.addCallback(attrs.evolve, warning=self._warning)

    def resolve_manifest(self, name: RepositoryName, reference: Reference) -> Deferred[Descriptor]:
        return self.get_manifest(name, reference).addCallback(lambda manifest: manifest.descriptor)

    def repositories(self, count: int | None, after: str) -> Deferred[Page]:
        return self._registry.repositories(count, after).addCallback(attrs.evolve, warning=self._warning)

    def tags(self, name: RepositoryName, count: int | None, after: str) -> Deferred[Page]:
        return self._registry.tags(name, count, after).addCallback(attrs.evolve, warning=self._warning)

    def referrers(
        self, name: RepositoryName, subject: Digest, artifact_type: str | None = None, after: Digest | None = None
    ) -> Deferred[ReferrerPage]:
        found = self._registry.referrers(name, subject, artifact_type, after)
        return found.addCallback(attrs.evolve, warning=self._warning)


def front(warning: str = STALE) -> InProcess:
    registry = local_registry(MemoryDriver())
    put_blob(registry, CONFIG)
    registry.put_manifest(NAME, IMAGE, [LATEST])
    child = listed(IMAGE, platform={"os": "linux", "architecture": "amd64"})
    images = manifest_of({"schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": [child]}, DOCKER_LIST)
    registry.put_manifest(NAME, images, [Tag("list")])
    return InProcess(Stale(registry, warning), None)


def told(response: Response) -> str:
    """The text of an answer's warning. Source: RFC 7234, section 5.5."""
    value = response.header("Warning")
    assert len(value.encode("latin-1")) <= 4096
    match = re.fullmatch(r'299 - "((?:[\x20!#-\[\]-~]|\\["\\])*)"', value)
    assert match is not None, value
    return re.sub(r"\\(.)", r"\1", match[1])


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "path",
    [
        f"/v2/{NAME}/manifests/latest",
        f"/v2/{NAME}/tags/list",
        f"/v2/{NAME}/referrers/{IMAGE.digest}",
        "/v2/_catalog",
    ],
)
def test_told(method: str, path: str) -> None:
    assert told(front().exchange(method, path).is_(200)) == STALE


def test_what_is_known_already() -> None:
    answer = front().get(f"/v2/{NAME}/manifests/latest", {"If-None-Match": str(IMAGE.digest)})
    assert told(answer.is_(304)) == STALE


def test_what_is_not_out_of_date() -> None:
    for path in (f"/v2/{NAME}/manifests/{IMAGE.digest}", "/v2/"):
        assert not front().get(path).is_(200).all("Warning")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_child_of_a_list_for_old_docker(method: str) -> None:
    answer = front().exchange(method, f"/v2/{NAME}/manifests/list", OLD_DOCKER).is_(200)
    assert answer.header("Docker-Content-Digest") == str(IMAGE.digest)
    assert told(answer) == STALE


@pytest.mark.parametrize(
    ("warning", "text"),
    [
        ('a "quoted" text', 'a "quoted" text'),
        ("a\\b\\", "a\\b\\"),
        ("a\r\nX: y\0\x7f", "a??X: y??"),
        ("Zürich \U0001f600", "Z?rich ?"),
        ("", ""),
        ("x" * 5000, "x" * (4096 - len('299 - ""'))),
    ],
)
def test_escaped(warning: str, text: str) -> None:
    answer = front(warning).get(f"/v2/{NAME}/manifests/latest").is_(200)
    assert told(answer) == text
    assert not answer.all("X")


@pytest.mark.parametrize("before", range(4))
@pytest.mark.parametrize("character", ['"', "\\"])
def test_cut_where_no_character_is_cut_in_two(before: int, character: str) -> None:
    warning = "x" * before + character * 5000
    text = told(front(warning).get(f"/v2/{NAME}/manifests/latest").is_(200))
    assert warning.startswith(text) and len(text) > 2000
