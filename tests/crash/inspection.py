"""What must hold of a registry, and of its tree, after its pushers and its crashes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from tests.clients.v2 import V2, digest_of

from .ledger import Ledger

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


def inspect(session: V2, tree: Path, ledger: Ledger) -> list[str]:
    """All that is wrong."""
    inspections = (
        lost_blobs(session, ledger),
        broken_blobs(session, ledger),
        lost_manifests(session, ledger),
        wrong_tags(session, ledger),
        wrong_listings(session, ledger),
        torn_files(tree),
    )
    return [fault for faults in inspections for fault in faults]


def lost_blobs(session: V2, ledger: Ledger) -> Iterator[str]:
    for blob in ledger.blobs(acknowledged=True):
        answer = session.blob(blob.repository, blob.digest)
        if answer.status != 200 or len(answer.body) != blob.size or not _matches(answer.body, blob.digest):
            yield f"acknowledged blob: {answer.status}, {len(answer.body)} bytes of {blob}"


def broken_blobs(session: V2, ledger: Ledger) -> Iterator[str]:
    for blob in ledger.blobs(acknowledged=False):
        answer = session.blob(blob.repository, blob.digest)
        if answer.status != 404 and not (answer.status == 200 and _matches(answer.body, blob.digest)):
            yield f"unacknowledged blob: {answer.status}, {len(answer.body)} bytes of {blob}"


def lost_manifests(session: V2, ledger: Ledger) -> Iterator[str]:
    for manifest in ledger.manifests():
        answer = session.manifest(manifest.repository, manifest.digest)
        whole = answer.status == 200 and answer.body == manifest.content
        if whole and answer.headers["Content-Type"] != manifest.media_type:
            yield f"manifest as {answer.headers['Content-Type']}: {manifest}"
        if not whole and (answer.status != 404 or manifest in ledger.manifests(acknowledged=True)):
            yield f"manifest: {answer.status} for {manifest}"


def wrong_tags(session: V2, ledger: Ledger) -> Iterator[str]:
    for (repository, tag), possible in ledger.tags().items():
        answer = session.manifest(repository, tag)
        digest = answer.headers["Docker-Content-Digest"] if answer.status == 200 else None
        if answer.status not in (200, 404) or digest not in possible:
            yield f"tag {repository}:{tag}: {answer.status}, {digest} instead of one of {possible}"


def wrong_listings(session: V2, ledger: Ledger) -> Iterator[str]:
    """Nothing is listed that was not pushed, and all that is listed can be pulled whole."""
    tags = ledger.tags()
    wanted = {repository for (repository, _), possible in tags.items() if None not in possible}
    listed = set(session.catalog())
    for repository in wanted - listed:
        yield f"repository {repository} is not listed"
    for repository in listed - {manifest.repository for manifest in ledger.manifests()}:
        yield f"repository {repository} is listed, and nobody has pushed a manifest to it"
    for repository in sorted(listed):
        names = set(session.tags(repository))
        for (other, tag), possible in tags.items():
            if other == repository and None not in possible and tag not in names:
                yield f"tag {repository}:{tag} is not listed"
        for tag in sorted(names):
            yield from unpullable(session, repository, tag)


def unpullable(session: V2, repository: str, reference: str) -> Iterator[str]:
    answer = session.manifest(repository, reference)
    if answer.status != 200:
        yield f"{repository}: {reference} is listed or referenced: {answer.status}"
        return
    for child in answer.json.get("manifests", ()):
        yield from unpullable(session, repository, child["digest"])
    for part in filter(None, (answer.json.get("config"), *answer.json.get("layers", ()))):
        blob = session.blob(repository, part["digest"])
        if blob.status != 200 or not _matches(blob.body, part["digest"]):
            yield f"{repository}: {part['digest']} is referenced by {reference}: {blob.status}"


def torn_files(tree: Path) -> Iterator[str]:
    """Each file that the tree's layout gives a meaning to is whole."""
    for data in tree.glob("blobs/*/*/*/data"):
        algorithm = data.parents[2].name
        if hashlib.new(algorithm, data.read_bytes()).hexdigest() != data.parent.name:
            yield f"torn: {data}"
    for link in tree.glob("repositories/**/link"):
        if _DIGEST.fullmatch(link.read_text()) is None:
            yield f"torn: {link}: {link.read_text()!r}"


def _matches(content: bytes, digest: str) -> bool:
    return digest_of(content, digest.partition(":")[0]) == digest
