"""Pushes of manifests that take long: a collector may have taken what they rely on, and then no tag has moved."""

from __future__ import annotations

import time
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from registryd.errors import ManifestBlobUnknown, ManifestUnknown, Unavailable
from registryd.local import SLOW_PUSH
from registryd.model import Manifest
from registryd.reference import Digest, Tag
from registryd.storage import layout
from registryd.storage.memory import MemoryDriver
from tests.values import GRACE, LATEST, NAME, image, local_registry, put_blob

LAYER = b"layer"
OTHER_TAG = Tag("other")


class SlowDriver(MemoryDriver):
    """A memory driver on which the next content that is put at some path takes long."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = ""
        self.meanwhile: Callable[[], None] = lambda: None

    def put_content(self, path: str, content: bytes, above: bool = False) -> None:
        if path == self.slow:
            self.slow = ""
            self.meanwhile()
        super().put_content(path, content, above)


class SlowPushTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.driver = SlowDriver()
        self.ahead = 0.0
        self.registry = local_registry(self.driver, now=lambda: time.time() + self.ahead)
        for content in (b"config", LAYER, b"other layer"):
            put_blob(self.registry, content)
        self.old = image(b"config", b"other layer")
        self.new = image(b"config", LAYER)
        self.successResultOf(self.registry.put_manifest(NAME, self.old, [LATEST]))

    def named(self, tag: Tag) -> Digest:
        manifest: Manifest = self.successResultOf(self.registry.get_manifest(NAME, tag))
        return manifest.digest

    def collect(self) -> None:
        """Take a layer away, as a collector does with what nobody has renewed for long."""
        self.ahead += GRACE * SLOW_PUSH * 2
        self.driver.delete(layout.blob_data(Digest.of(LAYER)))

    def test_a_push_that_is_refused_has_moved_no_tag(self) -> None:
        self.driver.slow, self.driver.meanwhile = layout.blob_data(self.new.digest), self.collect
        self.failureResultOf(self.registry.put_manifest(NAME, self.new, [LATEST, OTHER_TAG]), ManifestBlobUnknown)
        self.assertEqual(self.named(LATEST), self.old.digest)
        self.failureResultOf(self.registry.get_manifest(NAME, OTHER_TAG), ManifestUnknown)
        self.assertEqual(self.successResultOf(self.registry.tags(NAME, None, "")).names, (LATEST,))

    def test_a_push_whose_tag_takes_so_long_that_its_manifest_goes_is_not_acknowledged(self) -> None:
        def collect() -> None:
            self.ahead += GRACE * SLOW_PUSH * 2
            self.driver.delete(layout.revision_link(NAME, self.new.digest))

        self.driver.slow, self.driver.meanwhile = layout.tag_link(NAME, LATEST), collect
        self.failureResultOf(self.registry.put_manifest(NAME, self.new, [LATEST]), Unavailable)
        self.successResultOf(self.registry.put_manifest(NAME, self.new, [LATEST]))
        self.assertEqual(self.named(LATEST), self.new.digest)

    def test_a_push_whose_tag_takes_so_long_that_its_layer_goes_is_not_acknowledged(self) -> None:
        self.driver.slow, self.driver.meanwhile = layout.tag_link(NAME, LATEST), self.collect
        self.failureResultOf(self.registry.put_manifest(NAME, self.new, [LATEST]), ManifestBlobUnknown)

    def test_it_succeeds_once_the_layer_is_pushed_again(self) -> None:
        self.test_a_push_that_is_refused_has_moved_no_tag()
        put_blob(self.registry, LAYER)
        self.successResultOf(self.registry.put_manifest(NAME, self.new, [LATEST]))
        self.assertEqual(self.named(LATEST), self.new.digest)

    def test_a_slow_push_of_what_is_still_there(self) -> None:
        def wait() -> None:
            self.ahead += GRACE * SLOW_PUSH * 2

        self.driver.slow, self.driver.meanwhile = layout.blob_data(self.new.digest), wait
        self.successResultOf(self.registry.put_manifest(NAME, self.new, [LATEST]))
        self.assertEqual(self.named(LATEST), self.new.digest)
