"""Who may use a registry."""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from registryd.errors import Unavailable
from registryd.interfaces import IAccess, IRegistry


@implementer(IAccess)
class OpenAccess:
    """Gives one registry to everybody."""

    def __init__(self, registry: IRegistry) -> None:
        self._registry = registry

    def registry_for(self, authorization: bytes | None) -> Deferred[IRegistry]:
        return succeed(self._registry)


@implementer(IAccess)
class ClosedAccess:
    """Gives no registry to anybody: for a configuration that asks for an access control which is not there."""

    def registry_for(self, authorization: bytes | None) -> Deferred[IRegistry]:
        return fail(Unavailable("the access control that is configured here is not supported"))
