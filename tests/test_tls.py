"""TLS as a client sees it: real handshakes with the standard library's ssl over loopback."""

from __future__ import annotations

import datetime
import itertools
import shutil
import socket
import ssl
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.protocols.wire import Echo
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from registryd.config import Tls
from registryd.tls import TlsError, server_options

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
NOW = datetime.datetime.now(datetime.timezone.utc)
_numbers = itertools.count(1)
RSA_KEY = rsa.generate_private_key(65537, 2048)


@attrs.frozen
class Issued:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: Key

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        form = serialization.PrivateFormat.PKCS8
        return self.key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def issue(text: str, issuer: Issued | None = None, authority: bool = False, key: Key | None = None) -> Issued:
    """A certificate, signed by an issuer or by itself."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.certificate.subject if issuer else name)
        .public_key(key.public_key())
        .serial_number(next(_numbers))
        .not_valid_before(NOW - datetime.timedelta(days=1))
        .not_valid_after(NOW + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    )
    return Issued(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)


ROOT = issue("root", authority=True)
INTERMEDIATE = issue("intermediate", ROOT, authority=True)
SERVER = issue("server", INTERMEDIATE)
RSA_SERVER = issue("server with an RSA key", INTERMEDIATE, key=RSA_KEY)
CLIENTS = issue("clients' authority", authority=True)
CLIENT, STRANGER = issue("client", CLIENTS), issue("stranger")


class TlsCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)

    def file(self, *content: bytes) -> str:
        """The path of a file."""
        path = self.folder / f"{next(_numbers)}.pem"
        path.write_bytes(b"".join(content))
        return str(path)

    def tls(
        self,
        server: Issued = SERVER,
        client_cas: Sequence[Issued] = (),
        client_auth: str = "none",
        minimum: str = "tls1.2",
        suites: Sequence[str] = (),
    ) -> Tls:
        return Tls(
            self.file(server.pem, INTERMEDIATE.pem),
            self.file(server.key_pem),
            tuple(self.file(each.pem) for each in client_cas),
            client_auth,
            minimum,
            tuple(suites),
        )

    def client(self, identity: Issued | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=ROOT.pem.decode())
        if identity is not None:
            context.load_cert_chain(self.file(identity.pem), self.file(identity.key_pem))
        return context

    def connect(self, tls: Tls, client: ssl.SSLContext | None = None) -> tuple[str | None, str, str | None]:
        """Version, cipher suite and protocol of a connection that has carried something both ways."""
        options = server_options(tls)
        with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as threads:
            serving = threads.submit(serve, listening, options)
            try:
                with socket.create_connection(listening.getsockname(), 10) as plain:
                    wrapped = (client or self.client()).wrap_socket(plain, server_hostname="localhost")
                    with wrapped:
                        wrapped.sendall(b"a")
                        if wrapped.recv(1) != b"a":
                            raise ssl.SSLError("closed")
                        cipher = wrapped.cipher()
                        assert cipher is not None
                        return wrapped.version(), cipher[0], wrapped.selected_alpn_protocol()
            finally:
                serving.result(10)

    def refuses(self, tls: Tls, client: ssl.SSLContext | None = None) -> bool:
        try:
            self.connect(tls, client)
        except (ssl.SSLError, ConnectionError):
            return True
        return False


class SocketTransport(StringTransport):
    """Writes to a socket that another thread reads for it."""

    def __init__(self, connected: socket.socket) -> None:
        super().__init__(lenient=True)
        self.connected_socket = connected

    def write(self, data: bytes) -> None:
        try:
            self.connected_socket.sendall(data)
        except OSError:
            self.disconnecting = True

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))


def serve(listening: socket.socket, options: CertificateOptions) -> None:
    """Echo what comes over one connection, by the TLS that a daemon has."""
    accepted, _ = listening.accept()
    with accepted:
        clock = Clock()
        factory = TLSMemoryBIOFactory(options, False, Factory.forProtocol(Echo), clock)
        protocol = factory.buildProtocol(None)
        transport = SocketTransport(accepted)
        protocol.makeConnection(transport)
        while not transport.disconnecting and (data := receive(accepted)):
            protocol.dataReceived(data)
            # Small writes are gathered until the reactor's next turn.
            clock.advance(0)
        protocol.connectionLost(Failure(ConnectionDone()))


def receive(connected: socket.socket) -> bytes:
    try:
        return connected.recv(65536)
    except ConnectionError:
        return b""


class CertificateTests(TlsCase):
    def test_the_whole_chain_is_sent(self) -> None:
        self.assertEqual(self.connect(self.tls())[0], "TLSv1.3")

    def test_without_its_intermediate_it_is_not_trusted(self) -> None:
        tls = attrs.evolve(self.tls(), certificate=self.file(SERVER.pem))
        self.assertTrue(self.refuses(tls))

    def test_text_around_certificates(self) -> None:
        chain = self.file(b"a server\n", SERVER.pem, b"\nits issuer\n", INTERMEDIATE.pem, b"\n\n")
        self.connect(attrs.evolve(self.tls(), certificate=chain))

    def test_the_key_of_another(self) -> None:
        tls = attrs.evolve(self.tls(), key=self.file(STRANGER.key_pem))
        with self.assertRaises(TlsError) as caught:
            server_options(tls)
        self.assertIn(tls.key, str(caught.exception))

    def test_the_key_of_another_kind(self) -> None:
        with self.assertRaises(TlsError):
            server_options(attrs.evolve(self.tls(), key=self.file(RSA_SERVER.key_pem)))

    def test_files_that_are_not_there(self) -> None:
        missing = str(self.folder / "missing.pem")
        tls = self.tls(client_cas=[CLIENTS], client_auth="require-and-verify-client-cert")
        for changed in (
            attrs.evolve(tls, certificate=missing),
            attrs.evolve(tls, key=missing),
            attrs.evolve(tls, client_cas=(missing,)),
        ):
            with self.assertRaises(TlsError) as caught:
                server_options(changed)
            self.assertEqual(str(caught.exception), f"{missing}: No such file or directory")

    def test_files_that_are_something_else(self) -> None:
        begin = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
        for content in (b"", b"garbage", b"\xff" * 100, begin, SERVER.pem[:200]):
            path = self.file(content)
            tls = self.tls(client_cas=[CLIENTS], client_auth="require-and-verify-client-cert")
            for changed in (
                attrs.evolve(tls, certificate=path),
                attrs.evolve(tls, key=path),
                attrs.evolve(tls, client_cas=(path,)),
            ):
                with self.assertRaises(TlsError) as caught:
                    server_options(changed)
                self.assertTrue(str(caught.exception).startswith(f"{path}: "), str(caught.exception))
                self.assertNotIn("\n", str(caught.exception))

    def test_http_1_1_is_what_is_spoken(self) -> None:
        for offered, chosen in ((["h2", "http/1.1"], "http/1.1"), (["http/1.1"], "http/1.1"), ([], None)):
            client = self.client()
            if offered:
                client.set_alpn_protocols(offered)
            self.assertEqual(self.connect(self.tls(), client)[2], chosen)


class VersionTests(TlsCase):
    def old_client(self, version: ssl.TLSVersion) -> ssl.SSLContext:
        client = self.client()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            client.minimum_version = min(version, ssl.TLSVersion.TLSv1_2)
            client.maximum_version = version
        client.set_ciphers("DEFAULT@SECLEVEL=0")
        return client

    def test_minimum(self) -> None:
        for minimum, version, refused in (
            ("tls1.2", ssl.TLSVersion.TLSv1_3, False),
            ("tls1.2", ssl.TLSVersion.TLSv1_2, False),
            ("tls1.2", ssl.TLSVersion.TLSv1_1, True),
            ("tls1.3", ssl.TLSVersion.TLSv1_3, False),
            ("tls1.3", ssl.TLSVersion.TLSv1_2, True),
        ):
            client = self.old_client(version)
            self.assertEqual(self.refuses(self.tls(minimum=minimum), client), refused, (minimum, version))

    def test_a_client_of_tls_1_2_gets_it(self) -> None:
        self.assertEqual(self.connect(self.tls(), self.old_client(ssl.TLSVersion.TLSv1_2))[0], "TLSv1.2")


class ClientCertificateTests(TlsCase):
    def test_modes(self) -> None:
        for mode, none, known, unknown in (
            ("request-client-cert", True, True, True),
            ("require-any-client-cert", False, True, True),
            ("verify-client-cert-if-given", True, True, False),
            ("require-and-verify-client-cert", False, True, False),
        ):
            tls = self.tls(client_cas=[CLIENTS], client_auth=mode)
            for identity, accepted in ((None, none), (CLIENT, known), (STRANGER, unknown)):
                self.assertEqual(self.refuses(tls, self.client(identity)), not accepted, (mode, identity))

    def test_clients_are_told_whose_certificates_are_known(self) -> None:
        options = server_options(self.tls(client_cas=[CLIENTS], client_auth="require-and-verify-client-cert"))
        told = SSL.Connection(options.getContext(), None).get_client_ca_list()
        self.assertEqual([name.commonName for name in told], ["clients' authority"])

    def test_no_authority_no_question(self) -> None:
        for identity in (None, CLIENT, STRANGER):
            self.connect(self.tls(), self.client(identity))

    def test_several_authorities(self) -> None:
        other = issue("other authority", authority=True)
        tls = self.tls(client_cas=[other, CLIENTS], client_auth="require-and-verify-client-cert")
        for identity in (CLIENT, issue("other client", other)):
            self.connect(tls, self.client(identity))

    def test_several_authorities_in_one_file(self) -> None:
        other = issue("other authority", authority=True)
        tls = self.tls(client_cas=[other], client_auth="require-and-verify-client-cert")
        tls = attrs.evolve(tls, client_cas=(self.file(other.pem, CLIENTS.pem),))
        for identity in (CLIENT, issue("other client", other)):
            self.connect(tls, self.client(identity))

    def test_the_servers_own_authority_does_not_vouch_for_clients(self) -> None:
        tls = self.tls(client_cas=[CLIENTS], client_auth="require-and-verify-client-cert")
        self.assertTrue(self.refuses(tls, self.client(issue("server's sibling", INTERMEDIATE))))


SUITES = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256": "ECDHE-ECDSA-AES128-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256": "ECDHE-RSA-AES128-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256": "AES128-GCM-SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384": "AES256-GCM-SHA384",
    "TLS_RSA_WITH_AES_128_CBC_SHA256": "AES128-SHA256",
    "TLS_RSA_WITH_AES_128_CBC_SHA": "AES128-SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA": "AES256-SHA",
}


class CipherSuiteTests(TlsCase):
    def old_client(self, ciphers: str = "ALL:@SECLEVEL=0") -> ssl.SSLContext:
        client = self.client()
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        client.set_ciphers(ciphers)
        return client

    def test_the_one_that_is_configured_is_used(self) -> None:
        for suite, name in SUITES.items():
            server = SERVER if "ECDSA" in suite else RSA_SERVER
            _, cipher, _ = self.connect(self.tls(server, suites=[suite]), self.old_client())
            self.assertEqual(cipher, name)

    def test_others_are_refused(self) -> None:
        tls = self.tls(suites=["TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"])
        self.assertTrue(self.refuses(tls, self.old_client("ECDHE-ECDSA-AES128-GCM-SHA256")))
        self.assertFalse(self.refuses(tls, self.old_client("ECDHE-ECDSA-AES256-GCM-SHA384")))

    def test_those_of_tls_1_3(self) -> None:
        for suite in ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"):
            version, cipher, _ = self.connect(self.tls(suites=[suite]))
            self.assertEqual((version, cipher), ("TLSv1.3", suite))

    def test_both_kinds(self) -> None:
        tls = self.tls(suites=["TLS_AES_256_GCM_SHA384", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"])
        self.assertEqual(self.connect(tls)[1], "TLS_AES_256_GCM_SHA384")
        self.assertEqual(self.connect(tls, self.old_client())[1], "ECDHE-ECDSA-AES128-GCM-SHA256")

    def test_what_is_no_suite(self) -> None:
        for suite in ("TLS_NONSENSE", "nonsense", "TLS_ECDHE_ECDSA_WITH_NONSENSE"):
            with self.assertRaises(TlsError):
                server_options(self.tls(suites=[suite]))
