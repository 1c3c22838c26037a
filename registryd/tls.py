"""TLS for the ports of a registry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from OpenSSL import SSL, crypto
from twisted.internet.ssl import CertificateOptions, TLSVersion

from registryd.config import Tls

_T = TypeVar("_T")

_PEM_END = b"-----END CERTIFICATE-----"
_MINIMUM = {"tls1.2": TLSVersion.TLSv1_2, "tls1.3": TLSVersion.TLSv1_3}
_TLS13_SUITES = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")

_VERIFICATION = {
    "request-client-cert": SSL.VERIFY_PEER,
    "require-any-client-cert": SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT,
    "verify-client-cert-if-given": SSL.VERIFY_PEER,
    "require-and-verify-client-cert": SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT,
}
_UNCHECKED = frozenset({"request-client-cert", "require-any-client-cert"})


class TlsError(Exception):
    """The files that a configuration names cannot be used; one line that says which, and why."""


def server_options(tls: Tls) -> CertificateOptions:
    """What a listening endpoint needs to speak TLS.

    Errors:
        TlsError: a certificate or key cannot be read, or they do not belong together.
    """
    certificates = _certificates(tls.certificate)
    options = CertificateOptions(
        privateKey=_load(tls.key, lambda pem: crypto.load_privatekey(crypto.FILETYPE_PEM, pem)),
        certificate=certificates[0],
        extraCertChain=list(certificates[1:]),
        insecurelyLowerMinimumTo=_MINIMUM[tls.minimum],
        acceptableProtocols=[b"http/1.1"],
    )
    try:
        context = options.getContext()
        context.check_privatekey()
        _ask_for_client_certificates(context, tls)
        _choose_cipher_suites(context, tls.cipher_suites)
    except (SSL.Error, ValueError) as error:
        raise TlsError(f"{tls.certificate}, {tls.key}: {_said(error)}") from error
    return options


def _ask_for_client_certificates(context: SSL.Context, tls: Tls) -> None:
    if not tls.client_cas:
        return
    store = context.get_cert_store()
    for path in tls.client_cas:
        for authority in _certificates(path):
            if store is not None:
                store.add_cert(authority)
            context.add_client_ca(authority)
    unchecked = tls.client_auth in _UNCHECKED
    context.set_verify(
        _VERIFICATION.get(tls.client_auth, SSL.VERIFY_NONE),
        lambda _connection, _cert, _errno, _depth, ok: bool(ok) or unchecked,
    )


def _choose_cipher_suites(context: SSL.Context, suites: Sequence[str]) -> None:
    """Restrict the cipher suites to some, by the names that IANA and Distribution give them."""
    modern = [suite for suite in suites if suite in _TLS13_SUITES]
    older = [_openssl_name(suite) for suite in suites if suite not in _TLS13_SUITES]
    if modern:
        context.set_tls13_ciphersuites(":".join(modern).encode("ascii"))
    if older:
        context.set_cipher_list(":".join(older).encode("ascii"))


def _openssl_name(suite: str) -> str:
    """OpenSSL's name of a suite: TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 is ECDHE-RSA-AES128-GCM-SHA256 there."""
    exchange, _, cipher = suite.removeprefix("TLS_").partition("_WITH_")
    if "CHACHA20_POLY1305" in cipher:
        cipher = "CHACHA20-POLY1305"
    cipher = cipher.replace("AES_128_CBC", "AES128").replace("AES_256_CBC", "AES256")
    cipher = cipher.replace("AES_128", "AES128").replace("AES_256", "AES256").replace("_", "-")
    return cipher if exchange == "RSA" else f"{exchange.replace('_', '-')}-{cipher}"


def _certificates(path: str) -> Sequence[crypto.X509]:
    """The certificates of a PEM file, in their order."""

    def load(pem: bytes) -> Sequence[crypto.X509]:
        blocks = [block + _PEM_END for block in pem.split(_PEM_END)[:-1]]
        if not blocks:
            raise ValueError("there is no certificate in it")
        return [crypto.load_certificate(crypto.FILETYPE_PEM, block) for block in blocks]

    return _load(path, load)


def _load(path: str, parse: Callable[[bytes], _T]) -> _T:
    try:
        with open(path, "rb") as file:
            return parse(file.read())
    except OSError as error:
        raise TlsError(f"{path}: {error.strerror}") from error
    except (crypto.Error, ValueError, TypeError) as error:
        raise TlsError(f"{path}: {_said(error)}") from error


def _said(error: Exception) -> str:
    """What a TLS error says, in words: OpenSSL's come as a list of triples."""
    details = error.args[0] if error.args else ""
    if isinstance(details, list):
        return "; ".join(str(detail[-1]) for detail in details) or "not in PEM form"
    return str(error)
