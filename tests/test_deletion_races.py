"""Deletions beside pushes: no tag that was acknowledged is lost, and none is listed that cannot be pulled."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from registryd.errors import ManifestUnknown
from registryd.local import LocalRegistry
from registryd.model import Manifest
from registryd.reference import Digest, Tag
from registryd.storage import layout
from registryd.storage.filesystem import FilesystemDriver
from tests.values import LATEST, NAME, image, local_registry, put_blob

STOLEN = 0.2
"""Seconds that a call gets to come between; one that nothing holds up takes some milliseconds."""

ROUNDS = 25
OTHER_TAG = Tag("other")


class InterruptedDriver(FilesystemDriver):
    """A driver that lets something else happen before it changes a path, once for each path that is watched."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.before: dict[tuple[str, str], Callable[[], None]] = {}

    def put_content(self, path: str, content: bytes, above: bool = False) -> None:
        self._interrupt("put", path)
        super().put_content(path, content, above)

    def delete(self, path: str) -> None:
        self._interrupt("delete", path)
        super().delete(path)

    def _interrupt(self, what: str, path: str) -> None:
        interruption = self.before.pop((what, path), None)
        if interruption is not None:
            interruption()


class Call(threading.Thread):
    """A call of a registry in a thread of its own."""

    def __init__(self, call: Callable[..., Deferred[Any]], *arguments: Any) -> None:
        super().__init__(daemon=True)
        self._call = call
        self._arguments = arguments
        self.errors: list[BaseException | None] = []

    def run(self) -> None:
        self._call(*self._arguments).addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        self.errors.append(failure.value)

    def come_between(self) -> None:
        """Start, and go on once it is done or seen to wait."""
        self.start()
        self.join(STOLEN)


class DeletionRaces(SynchronousTestCase):
    """One daemon: all calls share a registry."""

    def setUp(self) -> None:
        root = tempfile.mkdtemp(prefix="registryd-test-")
        self.addCleanup(shutil.rmtree, root)
        self.driver = InterruptedDriver(root)
        self.registry = local_registry(self.driver)
        self.beside = self.another(root)
        put_blob(self.registry, b"config")
        self.first, self.second = image(b"config", number="1"), image(b"config", number="2")

    def another(self, root: str) -> LocalRegistry:
        """The registry of those who come between."""
        return self.registry

    def put(self, manifest: Manifest, *tags: Tag) -> None:
        self.successResultOf(self.registry.put_manifest(NAME, manifest, tags))

    def assert_pullable(self) -> None:
        tags = self.successResultOf(self.registry.tags(NAME, None, "")).names
        self.assertEqual([tag for tag in tags if self.resolves(Tag(tag)) is None], [])

    def resolves(self, tag: Tag) -> Digest | None:
        """What a tag names, or None where it cannot be pulled."""
        found: list[Digest | None] = []

        def missing(failure: Failure) -> None:
            failure.trap(ManifestUnknown)
            found.append(None)

        self.registry.get_manifest(NAME, tag).addCallbacks(lambda manifest: found.append(manifest.digest), missing)
        return found[0]

    def test_a_tag_that_moves_while_its_manifest_is_deleted(self) -> None:
        self.put(self.first, LATEST)
        push = Call(self.beside.put_manifest, NAME, self.second, [LATEST])
        self.driver.before["delete", layout.tag_link(NAME, LATEST)] = push.come_between
        self.successResultOf(self.registry.delete_manifest(NAME, self.first.digest))
        push.join(10)
        self.assertEqual(push.errors, [])
        self.assertEqual(self.resolves(LATEST), self.second.digest)
        self.assert_pullable()

    def test_a_tag_that_moves_while_it_is_deleted(self) -> None:
        self.put(self.first, LATEST)
        push = Call(self.beside.put_manifest, NAME, self.second, [LATEST])
        self.driver.before["delete", layout.tag_history(NAME, LATEST)] = push.come_between
        self.successResultOf(self.registry.delete_tag(NAME, LATEST))
        push.join(10)
        self.assertEqual(push.errors, [])
        self.assertEqual(self.resolves(LATEST), self.second.digest)
        history = layout.tag_history_link(NAME, LATEST, self.second.digest)
        self.assertEqual(self.driver.get_content(history), str(self.second.digest).encode())

    def test_a_manifest_that_is_deleted_while_it_is_tagged(self) -> None:
        self.put(self.first, LATEST)
        deletion = Call(self.beside.delete_manifest, NAME, self.first.digest)
        self.driver.before["put", layout.tag_link(NAME, OTHER_TAG)] = deletion.come_between
        self.put(self.first, OTHER_TAG)
        deletion.join(10)
        self.assertEqual(deletion.errors, [])
        self.assert_pullable()

    def test_a_manifest_that_is_pushed_anew_while_it_is_deleted(self) -> None:
        self.put(self.first, LATEST)
        push = Call(self.beside.put_manifest, NAME, self.first, [OTHER_TAG])
        self.driver.before["delete", layout.revision_link(NAME, self.first.digest)] = push.come_between
        self.successResultOf(self.registry.delete_manifest(NAME, self.first.digest))
        push.join(10)
        self.assertEqual(push.errors, [])
        self.assertEqual(self.resolves(OTHER_TAG), self.first.digest)
        self.assert_pullable()

    def test_many_times(self) -> None:
        for _ in range(ROUNDS):
            self.put(self.first, LATEST)
            calls = [
                Call(self.registry.delete_manifest, NAME, self.first.digest),
                Call(self.beside.put_manifest, NAME, self.second, [LATEST]),
                Call(self.beside.put_manifest, NAME, self.first, [OTHER_TAG]),
            ]
            for call in calls:
                call.start()
            for call in calls:
                call.join(10)
            self.assertEqual([error for call in calls for error in call.errors], [])
            self.assertEqual(self.resolves(LATEST), self.second.digest)
            self.assert_pullable()


class DeletionRacesOfTwoDaemons(DeletionRaces):
    """Two daemons on one store: whoever comes between has a driver of its own."""

    def another(self, root: str) -> LocalRegistry:
        return local_registry(FilesystemDriver(root))
