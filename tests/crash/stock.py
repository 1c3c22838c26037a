"""The few layers, images, indexes and signatures that the hammer's clients push again and again."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Final

import attrs

from tests.clients.v2 import digest_of

IMAGE: Final = "application/vnd.oci.image.manifest.v1+json"
INDEX: Final = "application/vnd.oci.image.index.v1+json"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"


@attrs.frozen(eq=False)
class Item:
    """A manifest with all that belongs to it; ``blobs`` are contents. Each exists once and is compared as itself."""

    media_type: str
    document: dict[str, Any] = attrs.field(repr=False)
    blobs: tuple[bytes, ...] = attrs.field(repr=False, default=())
    children: tuple[Item, ...] = ()
    subject: Item | None = None

    @cached_property
    def content(self) -> bytes:
        return json.dumps(self.document).encode()

    @cached_property
    def digest(self) -> str:
        return digest_of(self.content)

    @property
    def signature_tag(self) -> str:
        """The tag under which cosign looks for its signature."""
        return f"{self.digest.replace(':', '-')}.sig"

    @property
    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.content)}

    def whole(self) -> Iterator[Item]:
        """It, and its children to any depth."""
        yield self
        for child in self.children:
            yield from child.whole()

    def __str__(self) -> str:
        return self.digest[7:19]


def _image(config: bytes, layers: list[bytes], subject: Item | None = None, **more: object) -> Item:
    document = {
        "schemaVersion": 2,
        "mediaType": IMAGE,
        "config": {"mediaType": _CONFIG, "digest": digest_of(config), "size": len(config)},
        "layers": [{"mediaType": _LAYER, "digest": digest_of(layer), "size": len(layer)} for layer in layers],
        **more,
    }
    if subject is not None:
        document["subject"] = subject.descriptor
    return Item(IMAGE, document, (config, *layers), subject=subject)


def _index(children: list[Item]) -> Item:
    document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [child.descriptor for child in children]}
    return Item(INDEX, document, children=tuple(children))


def _signature(subject: Item, kind: str) -> Item:
    return _image(b"{}", [f"{kind} of {subject.digest}".encode()], subject, artifactType=f"application/{kind}")


class Stock:
    """All there is: images and indexes of images, signatures by subject and some of signatures, signatures by tag."""

    def __init__(self, images: int = 24, indexes: int = 10) -> None:
        seeded = random.Random("stock")
        layers = [seeded.randbytes(size) for size in (1, 700, 5_000, 20_000, 70_000, 200_000)]
        self.images = [_image(b'{"number": %d}' % number, seeded.sample(layers, 2)) for number in range(images)]
        self.indexes = [_index(seeded.sample(self.images, 2)) for _ in range(indexes)]
        self.tagged = [*self.images, *self.indexes]
        # Whoever deletes a child damages its index.
        children = {child for index in self.indexes for child in index.children}
        self.parents = [item for item in self.tagged if item not in children]
        signatures = [_signature(subject, "signature") for subject in self.tagged]
        self.referrers = [*signatures, *(_signature(each, "stamp") for each in signatures[:4])]
        self.cosigned = {each: _image(b"{}", [f"cosign {each.digest}".encode()]) for each in self.tagged}

    def referrers_of(self, subject: Item) -> list[Item]:
        return [each for each in self.referrers if each.subject is subject]

    def items(self) -> Iterator[Item]:
        """Every manifest."""
        yield from (*self.tagged, *self.referrers, *self.cosigned.values())
