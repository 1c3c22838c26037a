"""How the daemon listens and what it answers with: the ``http`` section to its values."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

from registryd.config.kinds import Values, closest
from registryd.config.scalars import is_header_name
from registryd.config.values import Debug, Http, Limits, Tls

CIPHER_SUITES = frozenset(
    f"TLS_{name}"
    for name in (
        *("RSA_WITH_RC4_128_SHA", "RSA_WITH_3DES_EDE_CBC_SHA", "RSA_WITH_AES_128_CBC_SHA", "RSA_WITH_AES_256_CBC_SHA"),
        *("RSA_WITH_AES_128_CBC_SHA256", "RSA_WITH_AES_128_GCM_SHA256", "RSA_WITH_AES_256_GCM_SHA384"),
        *("ECDHE_ECDSA_WITH_RC4_128_SHA", "ECDHE_ECDSA_WITH_AES_128_CBC_SHA", "ECDHE_ECDSA_WITH_AES_256_CBC_SHA"),
        *("ECDHE_ECDSA_WITH_AES_128_CBC_SHA256", "ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
        *("ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
        *("ECDHE_RSA_WITH_RC4_128_SHA", "ECDHE_RSA_WITH_3DES_EDE_CBC_SHA", "ECDHE_RSA_WITH_AES_128_CBC_SHA"),
        *("ECDHE_RSA_WITH_AES_256_CBC_SHA", "ECDHE_RSA_WITH_AES_128_CBC_SHA256", "ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
        *("ECDHE_RSA_WITH_AES_256_GCM_SHA384", "ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
        *("AES_128_GCM_SHA256", "AES_256_GCM_SHA384", "CHACHA20_POLY1305_SHA256"),
    )
)
"""The IANA names that Distribution knows."""
_PREFIX = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@%/-]*")
_TCP = re.compile(r"(?:\[[0-9A-Fa-f:.]+(?:%[^\s\]]+)?\]|[^\s\[\]:/]*):([0-9]{1,5})", re.ASCII)


def http(values: Values, remark: Callable[[str], None]) -> Http:
    """The section's values; without an address a socket has to be handed over.

    Errors:
        ConfigError: a part of it cannot be used.
    """
    limits, defaults = values.section("limits"), Limits()
    return Http(
        address=_address(values),
        net=values.text("net", "tcp"),
        prefix=_prefix(values),
        host=values.text("host") or None,
        relative_urls=values.get("relativeurls", bool, False),
        drain_timeout=values.get("draintimeout", float, 30.0),
        headers=_headers(values),
        tls=_tls(values.section("tls"), remark),
        limits=Limits(
            header=limits.get("headers", int, defaults.header),
            manifest=limits.get("manifest", int, defaults.manifest),
            upload=limits.optional("upload", int),
            idle=limits.get("idletimeout", float, defaults.idle),
        ),
        debug=_debug(values.section("debug")),
    )


def _address(values: Values) -> str:
    address = values.text("addr")
    if not address:
        return ""
    if values.text("net", "tcp") == "unix":
        if "\0" in address:
            raise values.error("addr", "a path cannot hold a zero byte")
        return address
    return _host_and_port(values, address)


def _host_and_port(values: Values, address: str) -> str:
    match = _TCP.fullmatch(address)
    if match is None or int(match[1]) > 65535:
        raise values.error("addr", f"{address[:80]!r} is not HOST:PORT: write for example :5000 or [::1]:5000")
    return address


def _debug(values: Values) -> Debug | None:
    address, prometheus = values.text("addr"), values.section("prometheus")
    if not address:
        return None
    path = prometheus.text("path", "/metrics")
    if not path.startswith("/") or _PREFIX.fullmatch(path) is None:
        raise prometheus.error("path", f"{path[:80]!r} is not the path of a URL: write for example /metrics")
    return Debug(_host_and_port(values, address), path if prometheus.get("enabled", bool, False) else None)


def _prefix(values: Values) -> str:
    prefix = values.text("prefix", "/")
    parts = prefix.strip("/").split("/")
    if _PREFIX.fullmatch(prefix) is None or any(part in ("", ".", "..") for part in parts if prefix.strip("/")):
        raise values.error("prefix", f"{prefix[:80]!r} is not the path of a URL: write for example /registry/")
    return "/" + "".join(f"{part}/" for part in parts if part)


def _headers(values: Values) -> Mapping[str, tuple[str, ...]]:
    headers = {}
    for name, items in values.mapping("headers").items():
        if not is_header_name(name):
            raise values.error("headers", f"{name[:80]!r} cannot be the name of an HTTP header")
        assert isinstance(items, tuple)
        headers[name] = items
    return MappingProxyType(headers)


def _tls(values: Values, remark: Callable[[str], None]) -> Tls | None:
    certificate, key = values.text("certificate"), values.text("key")
    automatic = values.section("letsencrypt").text("cachefile")
    if certificate and automatic:
        raise values.error("letsencrypt", "cannot stand beside http.tls.certificate: keep one of them")
    if automatic:
        # With a warning alone the daemon would speak plain HTTP where TLS is wanted.
        raise values.error("letsencrypt", "not supported yet: give http.tls.certificate and key")
    if certificate and not key:
        raise values.error("key", "missing: http.tls.certificate needs it")
    for needs in ("key", "clientcas"):
        if values.present.get(needs) and not certificate:
            raise values.error(needs, "set without http.tls.certificate: the daemon would speak plain HTTP")
    if not certificate:
        return None
    return Tls(
        certificate=certificate,
        key=key,
        client_cas=values.texts("clientcas"),
        client_auth=_client_auth(values),
        minimum=values.text("minimumtls", "tls1.2"),
        cipher_suites=_cipher_suites(values, remark),
    )


def _client_auth(values: Values) -> str:
    return values.text("clientauth", "require-and-verify-client-cert") if values.texts("clientcas") else "none"


def _cipher_suites(values: Values, remark: Callable[[str], None]) -> tuple[str, ...]:
    suites = values.texts("ciphersuites")
    for suite in suites:
        if suite not in CIPHER_SUITES:
            close = closest(suite, sorted(CIPHER_SUITES))
            hint = f": did you mean {close}?" if close else ": use the IANA names, such as TLS_AES_128_GCM_SHA256"
            raise values.error("ciphersuites", f"unknown TLS cipher suite {suite[:80]!r}{hint}")
    if suites and values.text("minimumtls") == "tls1.3":
        remark(values.at("ciphersuites").says(values.dotted("ciphersuites"), "ignored: TLS 1.3 leaves no choice"))
        return ()
    return suites
