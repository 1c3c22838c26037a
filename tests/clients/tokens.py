"""A token server for Distribution: what stands between Docker Hub, GitLab or Harbor and those who pull."""

from __future__ import annotations

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509 import load_pem_x509_certificate

from .certificates import issue

ISSUER, SERVICE = "registryd's tests", "an upstream"
_P256_BYTES = 32


class TokenServer:
    """Gives tokens for pulls to one user; a context manager. ``folder`` takes its certificates."""

    def __init__(self, folder: Path, username: str, password: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        files = issue(folder, [], ["tokens.invalid"])
        self._authority = files.authority
        key = serialization.load_pem_private_key(files.key.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key
        certificate = load_pem_x509_certificate(files.certificate.read_bytes())
        self._chain = [base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()]
        self.authorization = "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _answering(self))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def auth(self) -> dict[str, Any]:
        """The ``auth`` section of a registry that believes these tokens."""
        realm = f"http://127.0.0.1:{self._server.server_port}/token"
        told = {"realm": realm, "service": SERVICE, "issuer": ISSUER, "rootcertbundle": str(self._authority)}
        return {"token": told}

    def token(self, scope: str) -> str:
        """A signed token that permits pulls of the repository that a scope names."""
        kind, name, _ = scope.split(":")
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": SERVICE,
            "sub": "",
            "jti": uuid4().hex,
            "nbf": now - 60,
            "iat": now,
            "exp": now + 300,
            "access": [{"type": kind, "name": name, "actions": ["pull"]}],
        }
        signed = f"{_encoded({'typ': 'JWT', 'alg': 'ES256', 'x5c': self._chain})}.{_encoded(claims)}"
        numbers = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_unpadded(b''.join(number.to_bytes(_P256_BYTES, 'big') for number in numbers))}"

    def __enter__(self) -> TokenServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _encoded(document: object) -> str:
    return _unpadded(json.dumps(document).encode())


def _unpadded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _answering(tokens: TokenServer) -> type[BaseHTTPRequestHandler]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            known = self.headers["Authorization"] == tokens.authorization and query.get("service") == [SERVICE]
            body = json.dumps({"token": tokens.token(query["scope"][0])} if known else {}).encode()
            self.send_response(200 if known else 401)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    return Answer
