"""What was pushed before its name became a mirrored registry's."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from registryd.cache.pushed import WithoutPushed
from registryd.errors import NameUnknown
from registryd.reference import Digest
from registryd.storage import layout
from registryd.storage.memory import MemoryDriver
from tests.values import LATEST, NAME, OTHER, at_once, image, local_registry, put_blob, thread_like_driver


class WithoutPushedTests(SynchronousTestCase):
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
        self.registry = WithoutPushed(self.local, self.local.tree, at_once)

    def test_a_pushed_repository_answers_nothing(self) -> None:
        digest = Digest.of(b"layer")
        for answer in (
            self.registry.open_blob(NAME, digest),
            self.registry.resolve_blob(NAME, digest),
            self.registry.get_manifest(NAME, LATEST),
            self.registry.get_manifest(NAME, self.manifest.digest),
            self.registry.resolve_manifest(NAME, LATEST),
            self.registry.tags(NAME, None, ""),
            self.registry.referrers(NAME, self.manifest.digest),
        ):
            self.failureResultOf(answer, NameUnknown)

    def test_a_mirrored_one_answers(self) -> None:
        self.assertEqual(self.successResultOf(self.registry.get_manifest(OTHER, LATEST)), self.manifest)
        self.successResultOf(self.registry.open_blob(OTHER, Digest.of(b"layer"))).close()
        self.successResultOf(self.registry.resolve_blob(OTHER, Digest.of(b"layer")))
        self.successResultOf(self.registry.resolve_manifest(OTHER, LATEST))
        self.assertEqual(self.successResultOf(self.registry.tags(OTHER, None, "")).names, (LATEST,))
        self.successResultOf(self.registry.referrers(OTHER, self.manifest.digest))


class ThreadedWithoutPushedTests(WithoutPushedTests):
    """Over a driver that is not immediate."""

    def make_driver(self) -> MemoryDriver:
        return thread_like_driver()
