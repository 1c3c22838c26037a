"""Where names lead, as docs/mirror.md has it; and what a registry of several does with names of the tree."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from registryd.config import ConfigError, Proxy
from registryd.errors import NameInvalid, NameUnknown, Unsupported
from registryd.interfaces import IDeleter, INamespaces, IReader, IRegistry, IWriter, Route
from registryd.reference import Digest, RepositoryName, Tag
from registryd.routes import Namespaces, RoutedRegistry, name_at_upstream, upstream_of
from registryd.storage.memory import MemoryDriver
from registryd.unsupported import UnsupportedRegistry
from tests.mirror_table import ERRORS, Row, config_of, rows
from tests.test_filters import ARGUMENTS, names
from tests.values import LATEST, NAME, OTHER, image, local_registry, put_blob

TABLE = list(rows())
MIRRORING = [row for row in TABLE if "proxy" in row.document]


def namespaces(text: str, folder: Path) -> Namespaces:
    config = config_of(text, folder)
    assert config.proxy is not None and config.warnings == ()
    return Namespaces.of(config.proxy, config.http.host)


def resolved(row: Row, known: Namespaces) -> Route:
    """Where a row's request leads, its path taken apart as the front does it."""
    before, _, name = row.path.partition("/v2/")
    return known.resolve(name, row.ns, unquote(before[1:]) if before else None)


def test_the_document_has_tables() -> None:
    assert len(TABLE) > 100
    assert len({row.config for row in TABLE}) == 6
    assert {row.error for row in TABLE} == {None, *ERRORS}
    assert len(TABLE) == len({(row.config, row.path, row.ns) for row in TABLE})


@pytest.mark.parametrize("row", [row for row in MIRRORING if "prefix" not in row.config], ids=str)
def test_resolve(row: Row, tmp_path: Path) -> None:
    known = namespaces(row.config, tmp_path)
    if row.error is not None:
        with pytest.raises(NameUnknown if row.error == "NAME_UNKNOWN" else NameInvalid) as raised:
            resolved(row, known)
        assert raised.value.status == ERRORS[row.error]
        return
    route = resolved(row, known)
    assert (route.name, route.namespace) == (row.repository, row.namespace)
    assert route.asked == row.path.partition("/v2/")[2]
    component = upstream_of(route.name)
    if known.mirrors_all:
        assert row.name == route.name
    elif row.upstream is None:
        assert component not in known.upstreams
    else:
        assert (component, name_at_upstream(route.name)) == (row.upstream.replace(":", "_"), row.name)


class TestNamespaces:
    @pytest.fixture
    def known(self, tmp_path: Path) -> Namespaces:
        return namespaces(TABLE[0].config, tmp_path)

    def test_provides(self, known: Namespaces) -> None:
        assert verifyObject(INamespaces, known)

    def test_an_empty_ns_is_none(self, known: Namespaces) -> None:
        assert known.resolve("org/app", "", None) == Route(RepositoryName("org/app"), RepositoryName("org/app"))

    @pytest.mark.parametrize("ns", ["doc\u212aer.io", "doc%6ber.io", "docker.io\r\n", " docker.io", "docker.io.", "."])
    def test_what_only_looks_like_an_upstream(self, known: Namespaces, ns: str) -> None:
        # The lower case of U+212A is the letter k.
        assert not known.is_upstream(ns)
        with pytest.raises(NameUnknown):
            known.resolve("org/app", ns, None)
        with pytest.raises(NameUnknown):
            known.resolve("org/app", None, ns)

    @pytest.mark.parametrize("name", ["", "/", "a//b", "A", "a/", "../a", "ghcr.io/", "ghcr.io//a", "ghcr.io/../a"])
    @pytest.mark.parametrize(("ns", "prefix"), [(None, None), ("ghcr.io", None), (None, "ghcr.io")])
    def test_no_name(self, known: Namespaces, name: str, ns: str | None, prefix: str | None) -> None:
        with pytest.raises(NameInvalid):
            known.resolve(name, ns, prefix)

    def test_a_name_that_becomes_too_long(self, known: Namespaces) -> None:
        assert len(known.resolve("a" * 247, "ghcr.io", None).name) == 255
        with pytest.raises(NameInvalid):
            known.resolve("a" * 248, "ghcr.io", None)

    def test_an_upstream_of_our_own_name_is_the_upstream(self, tmp_path: Path) -> None:
        text = "http: {host: 'https://docker.io'}\nproxy: {upstreams: {docker.io: {remoteurl: 'https://h.example'}}}\n"
        assert namespaces(text, tmp_path).resolve("org/app", "docker.io", None).name == "docker.io/org/app"

    @pytest.mark.parametrize(
        ("host", "own", "others"),
        [
            ("https://r.example", ["r.example", "r.example:443", "R.Example"], ["r.example:80", "example"]),
            ("http://r.example:80", ["r.example", "r.example:80"], ["r.example:443"]),
            ("http://r.example:5000", ["r.example:5000", "r.example_5000"], ["r.example", "r.example:80"]),
            ("https://[::1]:5000/registry", ["[::1]:5000"], ["::1", "[::1]"]),
        ],
    )
    def test_own_names(self, tmp_path: Path, host: str, own: list[str], others: list[str]) -> None:
        proxy = "proxy: {upstreams: {docker.io: {remoteurl: 'https://h.example'}}, default: docker.io}\n"
        known = namespaces(f"http: {{host: '{host}'}}\n{proxy}", tmp_path)
        for ns in own:
            assert known.resolve("org/app", ns, None).name == "org/app"
        for ns in others:
            with pytest.raises(NameUnknown):
                known.resolve("org/app", ns, None)

    @pytest.mark.parametrize(
        "url", ["https://index.docker.io", "https://Registry-1.docker.io:443", "https://docker.io"]
    )
    def test_the_one_upstream_is_docker_hub(self, tmp_path: Path, url: str) -> None:
        known = namespaces(f"proxy: {{remoteurl: ['https://near.example', '{url}']}}\n", tmp_path)
        assert known.resolve("org/app", "docker.io", None).name == "org/app"
        with pytest.raises(NameUnknown):
            known.resolve("org/app", "ghcr.io", None)


def proxy_of(text: str, folder: Path) -> Proxy:
    proxy = config_of(f"proxy: {{{text}}}\n", folder).proxy
    assert proxy is not None
    return proxy


class TestConfiguration:
    def test_upstreams_have_their_components(self, tmp_path: Path) -> None:
        hosts = "index.docker.io: {remoteurl: 'https://a'}, 'Local:5001': {remoteurl: 'https://b'}"
        proxy = proxy_of(f"upstreams: {{{hosts}}}, default: registry-1.docker.io", tmp_path)
        assert {name: upstream.urls for name, upstream in proxy.upstreams.items()} == {
            "docker.io": ("https://a",),
            "local_5001": ("https://b",),
        }
        assert proxy.default == "docker.io"

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("upstreams: {docker.io: {U}, index.docker.io: {U}}", "proxy.upstreams.index.docker.io: the same registry"),
            ("upstreams: {'a:1': {U}, a_1: {U}}", "proxy.upstreams.a_1: the same registry as proxy.upstreams.a:1"),
            ("upstreams: {A: {U}, a: {U}}", "proxy.upstreams.a: the same registry as proxy.upstreams.A"),
            ("upstreams: {a/b: {U}}", "proxy.upstreams.a/b: no name of a registry"),
            ("upstreams: {'https://a': {U}}", "proxy.upstreams.https://a: no name of a registry"),
            ("upstreams: {'': {U}}", "proxy.upstreams.: no name of a registry"),
            ("upstreams: {a..b: {U}}", "proxy.upstreams.a..b: no name of a registry"),
            ("upstreams: {_: {U}}", "proxy.upstreams._: no name of a registry"),
            ("upstreams: {doc\u212aer.io: {U}}", "no name of a registry"),
            ("upstreams: {a: {U}}, default: b", "proxy.default: 'b' is none of proxy.upstreams"),
            ("upstreams: {a: {U}}, private: [x]", "proxy.private: means something only beside proxy.default"),
            ("upstreams: {a: {U}}, default: a, private: [x/*, A/*]", "proxy.private: 'A/*' is never private"),
            ("upstreams: {a: {U}}, self: 'https://r.example'", "proxy.self: 'https://r.example' is no host"),
            ("upstreams: {a: {U}}, self: [r.example, r/x]", "proxy.self: 'r/x' is no host"),
            ("upstreams: {a: {U}}, self: ''", "proxy.self: '' is no host"),
            ("upstreams: {docker.io: {U}}, self: index.docker.io", "proxy.self: 'index.docker.io' is one of"),
        ],
    )
    def test_errors(self, tmp_path: Path, text: str, problem: str) -> None:
        with pytest.raises(ConfigError) as raised:
            proxy_of(text.replace("{U}", "{remoteurl: 'https://u.example'}"), tmp_path)
        assert problem in str(raised.value)

    @pytest.mark.parametrize("own", ["r.example", "[r.example, 'r.example:5000', '[::1]:5000', R_x]"])
    def test_own_names(self, tmp_path: Path, own: str) -> None:
        proxy_of(f"upstreams: {{a: {{remoteurl: 'https://u.example'}}}}, self: {own}", tmp_path)


MIRRORED = RepositoryName("docker.io/library/alpine")
CONFIG = b"{}"
IMAGE = image(CONFIG)
READS = names(IReader) | {"tags", "referrers"}


class RoutedRegistryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.local, self.hub = local_registry(MemoryDriver()), local_registry(MemoryDriver())
        self.mirrors: dict[str, IRegistry] = {"docker.io": self.hub, "ghcr.io": local_registry(MemoryDriver())}
        self.registry = RoutedRegistry(self.local, self.mirrors)
        # Both hold what the other is asked for; their tags tell them apart.
        for registry, tag in ((self.local, "private"), (self.hub, "mirrored")):
            for name in (NAME, MIRRORED):
                put_blob(registry, CONFIG, name)
                self.push(registry, name, Tag(tag))

    def push(self, registry: IRegistry, name: RepositoryName, *tags: Tag) -> None:
        self.successResultOf(registry.put_manifest(name, IMAGE, [LATEST, *tags]))

    def read(self, registry: IRegistry, method: str, name: RepositoryName) -> Any:
        given = (name, Digest.of(CONFIG)) if method.endswith("_blob") else (name, *ARGUMENTS[method][1:])
        return getattr(registry, method)(*given)

    def test_is_a_registry(self) -> None:
        self.assertTrue(verifyObject(IRegistry, self.registry))

    def test_tags(self) -> None:
        for name, tag in ((NAME, "private"), (MIRRORED, "mirrored")):
            self.assertEqual(self.successResultOf(self.registry.tags(name, None, "")).names, (LATEST, tag))

    def test_mirrored_names_are_read_from_their_mirror(self) -> None:
        registry = RoutedRegistry(UnsupportedRegistry(), {"docker.io": self.hub})
        for method in READS:
            self.successResultOf(self.read(registry, method, MIRRORED))
            self.failureResultOf(self.read(registry, method, NAME), Unsupported)

    def test_private_names_are_read_from_the_local_registry(self) -> None:
        registry = RoutedRegistry(self.local, {"docker.io": UnsupportedRegistry()})
        for method in READS:
            self.successResultOf(self.read(registry, method, NAME))
            self.failureResultOf(self.read(registry, method, MIRRORED), Unsupported)

    def test_mirrored_names_are_read_only(self) -> None:
        for method in names(IWriter, IDeleter):
            failure = self.failureResultOf(
                getattr(self.registry, method)(MIRRORED, *ARGUMENTS[method][1:]), Unsupported
            )
            self.assertEqual((failure.value.status, failure.value.code), (405, "UNSUPPORTED"))
            self.assertIn("mirrored", str(failure.value))
        for registry, tag in ((self.local, "private"), (self.hub, "mirrored")):
            self.assertEqual(self.successResultOf(registry.tags(MIRRORED, None, "")).names, (LATEST, tag))

    def test_private_names_are_written(self) -> None:
        registry = RoutedRegistry(self.local, {"docker.io": UnsupportedRegistry()})
        digest = put_blob(registry, b"a layer")
        self.push(registry, NAME, Tag("new"))
        self.successResultOf(registry.delete_tag(NAME, LATEST))
        self.successResultOf(registry.delete_blob(NAME, digest))
        self.assertEqual(self.successResultOf(self.local.tags(NAME, None, "")).names, ("new", "private"))
        self.successResultOf(registry.delete_manifest(NAME, IMAGE.digest))
        self.assertEqual(self.successResultOf(self.local.tags(NAME, None, "")).names, ())

    def test_the_repositories_are_those_of_the_tree(self) -> None:
        put_blob(self.hub, CONFIG, RepositoryName("docker.io/other"))
        self.assertEqual(self.successResultOf(self.registry.repositories(None, "")).names, (MIRRORED, NAME))

    def test_mounts_what_is_cached(self) -> None:
        # The mirrors' repositories lie in the tree of the local registry.
        mounted = self.successResultOf(self.registry.mount_blob(OTHER, Digest.of(CONFIG), MIRRORED))
        self.assertEqual(mounted.digest, Digest.of(CONFIG))
        self.successResultOf(self.local.resolve_blob(OTHER, mounted.digest))
