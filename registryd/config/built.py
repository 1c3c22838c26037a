"""What registryd does of what a configuration can ask for: the table that grows with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from registryd.config.kinds import Kind, ListOf, MapOf, Section, Values

BUILT: Mapping[str, frozenset[str] | None] = {
    # A key stands for all below it. Where only some values are built, they are listed.
    "version": None,
    "log.level": None,
    "log.formatter": None,
    "log.fields": None,
    "log.accesslog": None,
    "loglevel": None,
    "storage.filesystem": None,
    "storage.inmemory": None,
    "storage.delete": None,
    "storage.maintenance": None,
    "http.addr": None,
    "http.net": None,
    "http.prefix": None,
    "http.host": None,
    "http.relativeurls": None,
    "http.draintimeout": None,
    "http.headers": None,
    "http.limits": None,
    "http.debug": None,
    "http.tls.certificate": None,
    "http.tls.key": None,
    "http.tls.clientcas": None,
    "http.tls.clientauth": None,
    "http.tls.minimumtls": None,
    "http.tls.ciphersuites": None,
    "catalog": None,
    "tags": None,
    "validation": None,
    "proxy": None,
    "gc.grace": None,
    "gc.interval": None,
    "gc.untagged": None,
    "gc.retention": None,
    "gc.trash": None,
    "auth.none": None,
    # Needs no doing: registryd has what it is for without it, or never does what it turns off.
    "http.secret": None,
    "http.http2": None,
    "storage.redirect": None,
    "storage.tag": None,
    "storage.cache.blobdescriptor": frozenset({"inmemory"}),
    "storage.cache.layerinfo": frozenset({"inmemory"}),
    "storage.cache.blobdescriptorsize": None,
}
"""The dotted keys that registryd does."""


def unbuilt(section: Section, values: Values) -> Iterator[str]:
    """The keys that ask for what is not built, each as high up as nothing below it is built."""
    for name, value in values.present.items():
        key = values.dotted(name)
        if key in BUILT:
            built = BUILT[key]
            if built is not None and value and value not in built:
                yield f"{key}: {value}"
        elif isinstance(value, Values) and any(other.startswith(f"{key}.") for other in BUILT):
            kind = section.keys[name]
            assert isinstance(kind, Section)
            yield from unbuilt(kind, value)
        elif _asks(section.keys[name], value):
            yield key


def _asks(kind: Kind, value: object) -> bool:
    """Whether a value asks for anything: a section that is turned off, an empty list, false do not."""
    if isinstance(kind, Section) and isinstance(value, Values):
        return _section_asks(kind, value)
    if isinstance(kind, ListOf) and isinstance(value, tuple):
        return any(_asks(kind.item, item) for item in value)
    if isinstance(kind, MapOf):
        return bool(value)
    return value not in (None, False, 0, "")


def _section_asks(section: Section, values: Values) -> bool:
    present = values.present
    if section.off is not None and present.get(section.off):
        return False
    return section.bare or any(
        key in present and _asks(section.keys[key], present[key]) for key in section.on or present
    )
