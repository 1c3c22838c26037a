"""Clients that push and read in all the ways there are, and keep books, while the daemon comes and goes."""

from __future__ import annotations

import http.client
import json
import random
import threading
from collections.abc import Iterator

from tests.clients.v2 import V2, digest_of, with_digest

from .ledger import Blob, Ledger, Manifest

IMAGE = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
OCTETS = {"Content-Type": "application/octet-stream"}
SIZES = ((0, 1), (1, 2), (2, 4096), (4096, 300_000), (300_000, 2 << 20))
BROKEN = (OSError, http.client.HTTPException)


class Target:
    """Where the daemon is, when it is anywhere."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._port: int | None = None
        self.over = threading.Event()

    def up(self, port: int) -> None:
        with self._changed:
            self._port = port
            self._changed.notify_all()

    def down(self) -> None:
        with self._changed:
            self._port = None

    def port(self) -> int:
        """The daemon's port, once it has one.

        Errors:
            TimeoutError: it does not come back.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._port is not None, timeout=60):
                raise TimeoutError("the daemon does not come back")
            assert self._port is not None
            return self._port


class Pusher(threading.Thread):
    """Pushes to repositories of its own until the target is over. ``seed`` fixes what it does.

    Where the power is ``cut``, uploads that are not closed may hold less than they did: who goes on asks how much.
    """

    def __init__(self, number: int, seed: str, target: Target, ledger: Ledger, cut: bool = False) -> None:
        super().__init__(name=f"pusher-{number}", daemon=True)
        self._number = number
        self._choice = random.Random(f"{seed}/{number}")
        self._target = target
        self._ledger = ledger
        self._cut = cut
        self._session: V2 | None = None

    @property
    def session(self) -> V2:
        if self._session is None:
            self._session = V2("127.0.0.1", self._target.port())
        return self._session

    def run(self) -> None:
        while not self._target.over.is_set():
            try:
                self._step()
            except BROKEN:
                self._hang_up()
            except Exception as error:  # noqa: BLE001 (a thread's failure is the test's)
                self._ledger.fault(f"{self.name}: {type(error).__name__}: {error}")
                self._hang_up()
        self._hang_up()

    def _hang_up(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _step(self) -> None:
        steps = (self._push_image, self._push_index, self._mount, self._delete_tag, self._push_loose_blob)
        (step,) = self._choice.choices(steps, weights=(6, 2, 2, 1, 3))
        step()

    def _repository(self) -> str:
        return f"p{self._number}/r{self._choice.randrange(3)}"

    def _tag(self) -> str:
        return f"t{self._choice.randrange(12)}"

    def _content(self) -> bytes:
        low, high = self._choice.choice(SIZES)
        return self._choice.randbytes(self._choice.randrange(low, high))

    def _push_loose_blob(self) -> None:
        self._push_blob(self._repository(), self._content())

    def _push_blob(self, repository: str, content: bytes) -> Blob:
        algorithm = self._choice.choice(("sha256", "sha256", "sha256", "sha512"))
        blob = Blob(repository, digest_of(content, algorithm), len(content))
        self._ledger.try_blob(blob)
        way = self._choice.choice((self._put, self._post, self._stream, self._patch))
        way(blob, content, algorithm)
        self._ledger.acknowledge_blob(blob)
        return blob

    def _start(self, repository: str, algorithm: str) -> str:
        path = f"/v2/{repository}/blobs/uploads/?digest-algorithm={algorithm}"
        return self.session.ask("POST", path, b"").expect(202).location

    def _put(self, blob: Blob, content: bytes, algorithm: str) -> None:
        location = self._start(blob.repository, algorithm)
        self.session.ask("PUT", with_digest(location, blob.digest), content, OCTETS).expect(201)

    def _post(self, blob: Blob, content: bytes, algorithm: str) -> None:
        path = f"/v2/{blob.repository}/blobs/uploads/?digest={blob.digest}"
        self.session.ask("POST", path, content, OCTETS).expect(201)

    def _stream(self, blob: Blob, content: bytes, algorithm: str) -> None:
        location = self._start(blob.repository, algorithm)
        location = self.session.ask("PATCH", location, _pieces(content), OCTETS).expect(202).location
        self.session.ask("PUT", with_digest(location, blob.digest), b"").expect(201)

    def _patch(self, blob: Blob, content: bytes, algorithm: str) -> None:
        """Push in parts, and after a break go on where the registry says that the session is."""
        location = self._start(blob.repository, algorithm)
        told = 0
        while told < len(content):
            stop = min(told + max(1, self._choice.randrange(len(content))), len(content))
            headers = {**OCTETS, "Content-Range": f"{told}-{stop - 1}"}
            try:
                location = self.session.ask("PATCH", location, content[told:stop], headers).expect(202).location
                told = stop
            except BROKEN:
                told = self._resume(location, told, stop)
        self.session.ask("PUT", with_digest(location, blob.digest), b"").expect(201)

    def _resume(self, location: str, told: int, sent: int) -> int:
        self._hang_up()
        answer = self.session.get(location).expect(204, *([404] if self._cut else []))
        last = int(answer.headers["Range"].partition("-")[2]) if answer.status == 204 else 0
        least = 0 if self._cut else told
        if last == 0 and least == 0:
            # "0-0" is one byte or none: who has been told of neither cannot go on.
            raise http.client.HTTPException("an upload that may be empty")
        held = last + 1
        assert least <= held <= sent, f"an upload of which {told} bytes were acknowledged holds {held}"
        return held

    def _push_image(self) -> None:
        repository = self._repository()
        config = self._push_blob(repository, b'{"os": "linux"}' + self._choice.randbytes(4).hex().encode())
        layers = [self._push_blob(repository, self._content()) for _ in range(self._choice.randrange(3))]
        document = {
            "schemaVersion": 2,
            "mediaType": IMAGE,
            "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar", layer) for layer in layers],
        }
        self._push_manifest(repository, document)

    def _push_index(self) -> None:
        repository = self._repository()
        images = [child for child in self._ledger.manifests(True) if child.repository == repository]
        children = self._choice.sample(images, min(2, len(images)))
        entries = [
            {"mediaType": child.media_type, "digest": child.digest, "size": len(child.content)} for child in children
        ]
        annotations = {"number": str(self._choice.random())}
        document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries, "annotations": annotations}
        self._push_manifest(repository, document)

    def _push_manifest(self, repository: str, document: dict[str, object]) -> None:
        content, media_type = json.dumps(document).encode(), str(document["mediaType"])
        algorithm = self._choice.choice(("sha256", "sha256", "sha512"))
        manifest = Manifest(repository, digest_of(content, algorithm), content, media_type)
        by_digest = algorithm == "sha512" or self._choice.random() < 0.3
        tags = [self._tag()] if not by_digest else sorted({self._tag() for _ in range(self._choice.randrange(3))})
        query = "&".join(f"tag={tag}" for tag in tags)
        path = f"/v2/{repository}/manifests/" + (f"{manifest.digest}?{query}" if by_digest else tags[0])
        self._ledger.try_manifest(manifest, tags)
        answer = self.session.ask("PUT", path, content, {"Content-Type": media_type}).expect(201)
        assert answer.headers["Docker-Content-Digest"] == manifest.digest
        self._ledger.acknowledge_manifest(manifest, tags)

    def _mount(self) -> None:
        known = self._ledger.any_blob(self._choice, acknowledged=True)
        if known is None:
            return
        blob = Blob(self._repository(), known.digest, known.size)
        self._ledger.try_blob(blob)
        path = f"/v2/{blob.repository}/blobs/uploads/?mount={blob.digest}&from={known.repository}"
        self.session.ask("POST", path, b"").expect(201)
        self._ledger.acknowledge_blob(blob)

    def _delete_tag(self) -> None:
        repository, tag = self._repository(), self._tag()
        self._ledger.try_tag(repository, tag, None)
        self.session.ask("DELETE", f"/v2/{repository}/manifests/{tag}").expect(202, 404)
        self._ledger.acknowledge_tag(repository, tag, None)


class Reader(Pusher):
    """Reads what others push: what was acknowledged is there, and what was not is there whole or not at all."""

    def _step(self) -> None:
        self._choice.choice((self._read_acknowledged, self._read_tried, self._read_tag))()

    def _read_acknowledged(self) -> None:
        blob = self._ledger.any_blob(self._choice, acknowledged=True)
        if blob is not None:
            body = self.session.blob(blob.repository, blob.digest).expect(200).body
            assert digest_of(body, blob.digest.partition(":")[0]) == blob.digest, blob

    def _read_tried(self) -> None:
        blob = self._ledger.any_blob(self._choice, acknowledged=None)
        if blob is not None:
            answer = self.session.blob(blob.repository, blob.digest).expect(200, 404)
            if answer.status == 200:
                assert digest_of(answer.body, blob.digest.partition(":")[0]) == blob.digest, blob

    def _read_tag(self) -> None:
        tags = self._ledger.tags()
        if not tags:
            return
        repository, tag = self._choice.choice(sorted(tags))
        answer = self.session.manifest(repository, tag).expect(200, 404)
        if answer.status == 200:
            digest = answer.headers["Docker-Content-Digest"]
            assert digest_of(answer.body, digest.partition(":")[0]) == digest
            assert digest in self._ledger.ever(repository, tag)


def _descriptor(media_type: str, blob: Blob) -> dict[str, object]:
    return {"mediaType": media_type, "digest": blob.digest, "size": blob.size}


def _pieces(content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), 65536):
        yield content[start : start + 65536]
