"""What was pushed before its name became a mirrored registry's, and mirrored before its name became a private one."""

from __future__ import annotations

from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from registryd.cache.pushed import WithoutMirrored, WithoutPushed
from registryd.errors import NameUnknown, Unsupported
from registryd.interfaces import IRegistry
from registryd.reference import Digest, RepositoryName, Tag
from registryd.routes import RoutedRegistry
from registryd.storage import layout
from registryd.storage.memory import MemoryDriver
from tests.values import LATEST, NAME, OTHER, at_once, image, local_registry, put_blob, thread_like_driver

LAYER = Digest.of(b"layer")


class PushedAndMirrored(SynchronousTestCase):
    """Two repositories that hold the same image: NAME was pushed, OTHER is a mirror."""

    def make_driver(self) -> MemoryDriver:
        return MemoryDriver()

    def setUp(self) -> None:
        self.driver = self.make_driver()
        self.local = local_registry(self.driver)
        self.manifest = image(b"{}", b"layer")
        for name in (NAME, OTHER):
            for content in (b"{}", b"layer"):
                put_blob(self.local, content, name)
            self.successResultOf(self.local.put_manifest(name, self.manifest, [LATEST]))
        self.driver.put_content(layout.mirror(OTHER), b"ghcr.io")

    def assert_answers_nothing(self, registry: IRegistry, name: RepositoryName) -> str:
        """Returns the one line that the log has of it."""
        with capturedLogs() as events:
            for answer in (
                registry.open_blob(name, LAYER),
                registry.resolve_blob(name, LAYER),
                registry.get_manifest(name, LATEST),
                registry.get_manifest(name, self.manifest.digest),
                registry.resolve_manifest(name, LATEST),
                registry.tags(name, None, ""),
                registry.referrers(name, self.manifest.digest),
            ):
                self.failureResultOf(answer, NameUnknown)
        (event,) = events
        return formatEvent(event)

    def assert_answers(self, registry: IRegistry, name: RepositoryName) -> None:
        self.assertEqual(self.successResultOf(registry.get_manifest(name, LATEST)), self.manifest)
        self.successResultOf(registry.open_blob(name, LAYER)).close()
        self.successResultOf(registry.resolve_blob(name, LAYER))
        self.successResultOf(registry.resolve_manifest(name, LATEST))
        self.assertEqual(self.successResultOf(registry.tags(name, None, "")).names, (LATEST,))
        self.successResultOf(registry.referrers(name, self.manifest.digest))


class WithoutPushedTests(PushedAndMirrored):
    def setUp(self) -> None:
        super().setUp()
        self.registry = WithoutPushed(self.local, self.local.tree, at_once)

    def test_a_pushed_repository_answers_nothing(self) -> None:
        said = self.assert_answers_nothing(self.registry, NAME)
        self.assertEqual(said, f"{NAME}: holds images that no mirror put there, and is not served; see adopt-cache")

    def test_a_mirrored_one_answers(self) -> None:
        self.assert_answers(self.registry, OTHER)

    def test_it_takes_no_pushes(self) -> None:
        self.failureResultOf(self.registry.put_manifest(OTHER, self.manifest, [LATEST]), Unsupported)


class ThreadedWithoutPushedTests(WithoutPushedTests):
    """Over a driver that is not immediate."""

    def make_driver(self) -> MemoryDriver:
        return thread_like_driver()


class WithoutMirroredTests(PushedAndMirrored):
    def setUp(self) -> None:
        super().setUp()
        self.adoptable: set[RepositoryName] = set()
        self.registry = WithoutMirrored(
            self.local, self.local.tree, at_once, lambda name: name if name in self.adoptable else None
        )

    def test_a_mirrored_repository_answers_nothing(self) -> None:
        said = self.assert_answers_nothing(self.registry, OTHER)
        self.assertIn(f"{OTHER}: mirrors ghcr.io, is no private repository, and is not served; remove ", said)
        self.assertIn(layout.repository(OTHER), said)

    def test_where_its_name_leads_to_an_upstream_the_log_says_how_to_get_it_there(self) -> None:
        self.adoptable.add(OTHER)
        said = self.assert_answers_nothing(self.registry, OTHER)
        self.assertIn("not served; adopt-cache makes it one of the upstream that its name leads to", said)

    def test_a_pushed_one_answers(self) -> None:
        self.assert_answers(self.registry, NAME)

    def test_whatever_its_mark_says(self) -> None:
        self.driver.put_content(layout.mirror(NAME), b"")
        self.assert_answers_nothing(self.registry, NAME)

    def test_pushes_deletions_and_the_catalog_go_past_it(self) -> None:
        registry = RoutedRegistry(self.local, {}, self.registry)
        writer = self.successResultOf(registry.start_upload(NAME, "sha256"))
        self.successResultOf(writer.suspend())
        self.assertEqual(self.successResultOf(registry.upload_status(NAME, writer.id)).size, 0)
        writer = self.successResultOf(registry.resume_upload(NAME, writer.id))
        self.successResultOf(writer.cancel())
        self.successResultOf(registry.mount_blob(NAME, LAYER, None))
        self.successResultOf(registry.put_manifest(NAME, self.manifest, [Tag("v2")]))
        self.failureResultOf(registry.put_manifest(OTHER, self.manifest, [LATEST]), Unsupported)
        self.assertEqual(self.successResultOf(registry.repositories(None, "")).names, (NAME, OTHER))
        self.successResultOf(registry.delete_tag(NAME, Tag("v2")))
        self.successResultOf(registry.delete_manifest(NAME, self.manifest.digest))
        self.successResultOf(registry.delete_blob(NAME, LAYER))
        self.failureResultOf(registry.get_manifest(OTHER, LATEST), NameUnknown)


class ThreadedWithoutMirroredTests(WithoutMirroredTests):
    """Over a driver that is not immediate."""

    def make_driver(self) -> MemoryDriver:
        return thread_like_driver()
