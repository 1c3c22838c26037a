"""CNCF Distribution, as Debian packages it, as an upstream: plain, and with htpasswd."""

from __future__ import annotations

import base64
import http.client
from collections.abc import Mapping
from typing import Any

from twisted.internet import reactor

from registryd.errors import BlobUnknown, ManifestUnknown, NameUnknown
from registryd.model import Manifest
from registryd.reference import Digest, RepositoryName, Tag
from tests.clients.distribution import Distribution
from tests.upstream.case import LATEST, NAME, UpstreamCase, folder_of
from tests.values import image

LAYER = b"layer" * 200_000

USER, PASSWORD = "mirror", "not for everybody"
# Distribution takes bcrypt alone: of the password above, at the least cost.
_HTPASSWD = f"{USER}:$2b$05$tZRfs6FUlAlBTnAkqlC9gOrq238JXiIQlFq7j0S8Ee6H6cW3PJNzO\n"


def push(port: int, headers: Mapping[str, str]) -> Manifest:
    """Push an image with a layer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)

    def send(method: str, path: str, content: bytes = b"", **more: str) -> str:
        connection.request(method, path, content, {**headers, **more})
        answer = connection.getresponse()
        said = answer.read()
        assert answer.status in (201, 202), said
        return answer.headers["Location"]

    manifest = image(b"{}", LAYER)
    for blob in (b"{}", LAYER):
        send("PUT", f"{send('POST', f'/v2/{NAME}/blobs/uploads/')}&digest={Digest.of(blob)}", blob)
    send("PUT", f"/v2/{NAME}/manifests/{LATEST}", manifest.content, **{"Content-Type": manifest.media_type})
    connection.close()
    return manifest


class Served(UpstreamCase):
    """A test that has Distribution running, and an image in it."""

    def serve(self, headers: Mapping[str, str], **more: Any) -> tuple[Distribution, Manifest]:
        folder = folder_of(self)
        distribution = Distribution(folder / "root", folder, **more)
        self.addCleanup(distribution.__exit__, None, None, None)
        return distribution, push(distribution.port, headers)


class Plain(Served):
    async def test_all(self) -> None:
        distribution, manifest = self.serve({})
        registry = self.upstream(f"http://{distribution.address}", clock=reactor)
        digest = Digest.of(LAYER)
        self.assertEqual(await registry.resolve_manifest(NAME, LATEST), manifest.descriptor)
        self.assertEqual(await registry.get_manifest(NAME, LATEST), manifest)
        self.assertEqual(await registry.get_manifest(NAME, manifest.digest), manifest)
        self.assertEqual((await registry.resolve_blob(NAME, digest)).size, len(LAYER))
        for start in (0, 1, len(LAYER) - 1, len(LAYER)):
            self.assertEqual(await self.fetched(registry, digest, start), LAYER[start:])
        self.assertEqual(await registry.tags(NAME), [LATEST])
        self.assertEqual(list(await registry.referrers(NAME, manifest.digest)), [])
        with self.assertRaises(ManifestUnknown):
            await registry.get_manifest(NAME, Tag("none"))
        with self.assertRaises(BlobUnknown):
            await registry.fetch_blob(NAME, Digest.of(b"none"), 0)
        with self.assertRaises(NameUnknown):
            await registry.tags(RepositoryName("none"))
        distribution.__exit__(None, None, None)
        await self.unavailable(registry.get_manifest(NAME, LATEST))


class Htpasswd(Served):
    async def test_login(self) -> None:
        users = folder_of(self) / "users"
        users.write_text(_HTPASSWD)
        login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        auth = {"htpasswd": {"realm": "here", "path": str(users)}}
        distribution, manifest = self.serve({"Authorization": f"Basic {login}"}, auth=auth)
        url = f"http://{distribution.address}"
        registry = self.upstream(url, username=USER, password=PASSWORD, clock=reactor)
        self.assertEqual(await registry.get_manifest(NAME, LATEST), manifest)
        self.assertEqual(await self.fetched(registry, Digest.of(LAYER)), LAYER)
        for username, password in (("", ""), (USER, "another"), ("nobody", PASSWORD)):
            refused = self.upstream(url, username=username, password=password, clock=reactor)
            await self.unavailable(refused.get_manifest(NAME, LATEST))
