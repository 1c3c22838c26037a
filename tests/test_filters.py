"""The filters: every method of a registry is let through or refused, and which."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyClass, verifyObject

from registryd.access import ClosedAccess, OpenAccess
from registryd.errors import Unavailable, Unsupported
from registryd.filters import ReadOnly, Undeletable
from registryd.interfaces import IAccess, IDeleter, ILister, IReader, IRegistry, IWriter
from registryd.storage.memory import MemoryDriver
from registryd.unsupported import UnsupportedRegistry
from tests.values import LATEST, NAME, OTHER, image, local_registry

IMAGE = image(b"{}")

ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "open_blob": (NAME, IMAGE.digest),
    "resolve_blob": (NAME, IMAGE.digest),
    "get_manifest": (NAME, LATEST),
    "resolve_manifest": (NAME, LATEST),
    "start_upload": (NAME, "sha256"),
    "resume_upload": (NAME, "id"),
    "upload_status": (NAME, "id"),
    "mount_blob": (NAME, IMAGE.digest, OTHER),
    "put_manifest": (NAME, IMAGE, [LATEST]),
    "delete_blob": (NAME, IMAGE.digest),
    "delete_manifest": (NAME, IMAGE.digest),
    "delete_tag": (NAME, LATEST),
    "repositories": (None, ""),
    "tags": (NAME, None, ""),
    "referrers": (NAME, IMAGE.digest),
}
"""What each method may be called with."""


def names(*interfaces: Any) -> set[str]:
    return {name for interface in interfaces for name in interface.names(all=True)}


class FilterTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.origin = local_registry(MemoryDriver())

    def assertFilters(self, registry: IRegistry, passing: set[str]) -> None:
        verifyObject(IRegistry, registry)
        for name, arguments in ARGUMENTS.items():
            method = getattr(registry, name)
            if name in passing:
                self.assertEqual(method, getattr(self.origin, name), name)
            else:
                self.failureResultOf(method(*arguments), Unsupported)

    def test_every_method_is_known_here(self) -> None:
        self.assertEqual(set(ARGUMENTS), names(IRegistry))

    def test_unsupported(self) -> None:
        verifyClass(IRegistry, UnsupportedRegistry)
        self.assertFilters(UnsupportedRegistry(), set())

    def test_read_only(self) -> None:
        self.assertFilters(ReadOnly(self.origin), names(IReader, ILister))

    def test_undeletable(self) -> None:
        self.assertFilters(Undeletable(self.origin), names(IReader, ILister, IWriter))
        self.assertEqual(names(IRegistry) - names(IReader, ILister, IWriter), names(IDeleter))

    def test_one_behind_another(self) -> None:
        self.assertFilters(ReadOnly(Undeletable(self.origin)), names(IReader, ILister))

    def test_refusals_are_405(self) -> None:
        failure = self.failureResultOf(ReadOnly(self.origin).delete_tag(NAME, LATEST), Unsupported)
        self.assertEqual((failure.value.status, failure.value.code), (405, "UNSUPPORTED"))


class AccessTests(SynchronousTestCase):
    def test_open(self) -> None:
        registry = UnsupportedRegistry()
        access = OpenAccess(registry)
        verifyObject(IAccess, access)
        for authorization in (None, b"", b"Basic YTpi", b"\xff"):
            given: Deferred[IRegistry] = access.registry_for(authorization)
            self.assertIs(self.successResultOf(given), registry)

    def test_closed(self) -> None:
        access = ClosedAccess()
        verifyObject(IAccess, access)
        for authorization in (None, b"Basic YTpi"):
            self.failureResultOf(access.registry_for(authorization), Unavailable)
