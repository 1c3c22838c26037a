"""What tests push, and what they push it to: small blobs and manifests, and registries over storage drivers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Final

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IProducer, IPushProducer
from zope.interface import implementer

from registryd.config import Validation
from registryd.interfaces import IBlobWriter, InThread, IRegistry, IViewConsumer
from registryd.local import LocalRegistry
from registryd.model import OCI_INDEX, OCI_MANIFEST, Manifest
from registryd.reference import Digest, RepositoryName, Tag
from registryd.storage.interfaces import IStorageDriver
from registryd.storage.memory import MemoryDriver
from registryd.validation import Rules

NAME: Final = RepositoryName("team/app")
OTHER: Final = RepositoryName("team/other")
LATEST: Final = Tag("latest")

OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"

STRICT: Final = Validation(disabled=False, urls=None, platforms="all", platform_list=())
GRACE: Final = 24 * 3600.0

JSON = dict[str, Any]


def at_once(call: Callable[..., Any], /, *arguments: Any) -> Deferred[Any]:
    """What runs a call where others would use a thread."""
    return maybeDeferred(call, *arguments)


def thread_like_driver(capacity: int | None = None) -> MemoryDriver:
    """A memory driver that asks for threads in all that it does."""
    driver = MemoryDriver(capacity)
    driver.immediate = False
    return driver


def local_registry(
    driver: IStorageDriver,
    in_thread: InThread = at_once,
    validation: Validation = STRICT,
    now: Callable[[], float] = time.time,
) -> LocalRegistry:
    return LocalRegistry(driver, Rules(validation), GRACE, in_thread, now)


def described(content: bytes, media_type: str = OCI_LAYER, **more: object) -> JSON:
    """The descriptor of content, as a manifest has it."""
    return {"mediaType": media_type, "digest": str(Digest.of(content)), "size": len(content), **more}


def listed(manifest: Manifest, **more: object) -> JSON:
    """The descriptor of a manifest, as an index has it."""
    return {
        "mediaType": manifest.media_type,
        "digest": str(manifest.digest),
        "size": len(manifest.content),
        **more,
    }


def manifest_of(document: object, media_type: str = OCI_MANIFEST, algorithm: str = "sha256") -> Manifest:
    content = json.dumps(document).encode()
    return Manifest(media_type, Digest.of(content, algorithm), content)


def image(config: bytes, *layers: bytes, algorithm: str = "sha256", **more: object) -> Manifest:
    """An image of a config and layers; its document has more keys."""
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": described(config, OCI_CONFIG),
        "layers": [described(layer) for layer in layers],
        **more,
    }
    return manifest_of(document, algorithm=algorithm)


def index(*children: JSON, **more: object) -> Manifest:
    """An index of descriptors; its document has more keys."""
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(children), **more}
    return manifest_of(document, OCI_INDEX)


@implementer(IViewConsumer)
class Sink:
    """A consumer that keeps what it gets; with ``greedy`` false it pauses its producer after each piece."""

    def __init__(self, greedy: bool = True) -> None:
        self.pieces: list[bytes] = []
        self.producer: IPushProducer | None = None
        self.registrations = 0
        self._greedy = greedy
        self._waiting: Deferred[None] | None = None

    @property
    def content(self) -> bytes:
        return b"".join(self.pieces)

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        assert self.producer is None and streaming
        self.registrations += 1
        self.producer = IPushProducer(producer)

    def unregisterProducer(self) -> None:
        self.producer = None

    def write(self, data: bytes | memoryview) -> None:
        self.pieces.append(bytes(data))
        if not self._greedy and self.producer is not None:
            self.producer.pauseProducing()
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    def piece(self, number: int) -> Deferred[None]:
        """Fires when so many pieces are there."""
        waiting = self._waiting = Deferred[None]()
        if len(self.pieces) >= number:
            self._waiting = None
            waiting.callback(None)
        return waiting

    def resume(self) -> None:
        """Want one piece more."""
        assert self.producer is not None
        self.producer.resumeProducing()


@implementer(IPushProducer)
class Source:
    """A producer that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")


def split(content: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Content in pieces that end at some offsets."""
    offsets = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    return [content[start:stop] for start, stop in pairwise(offsets)]


class TouchedDriver(MemoryDriver):
    """A memory driver that remembers what was renewed."""

    def __init__(self) -> None:
        super().__init__()
        self.touched: set[str] = set()

    def touch(self, path: str) -> None:
        super().touch(path)
        self.touched.add(path)


def put_blob(registry: IRegistry, content: bytes, name: RepositoryName = NAME, algorithm: str = "sha256") -> Digest:
    """Push a blob to a registry that does all at once."""
    digest = Digest.of(content, algorithm)
    opened: list[IBlobWriter] = []
    registry.start_upload(name, algorithm).addCallback(opened.append)
    (writer,) = opened
    writer.write(content)
    done: list[object] = []
    writer.commit(digest).addCallback(done.append)
    assert done
    return digest
