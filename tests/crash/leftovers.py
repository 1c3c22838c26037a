"""What a tree must hold after a last run of the collector, to the file, and what it holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tests.clients.v2 import digest_of

from .books import Repository
from .stock import Item, Stock

Signed = Mapping[str, set[Item]]
"""By repository, the manifests that it may hold signatures by tag of, but does not hold itself."""


def signed_elsewhere(tree: Path, repositories: Iterable[Repository], stock: Stock) -> Signed:
    """The manifests that the store holds, but not the repository: a run leaves their signatures there.

    Those of manifests that go in that run go with the next.
    """
    stored = {subject for subject in stock.cosigned if (tree / _data(subject.digest)).exists()}
    return {
        repository.name: {subject for subject in stored if not (tree / _revision(repository.name, subject)).exists()}
        for repository in repositories
    }


def wrong_files(tree: Path, repositories: Iterable[Repository], stock: Stock, signed: Signed) -> list[str]:
    """What is missing, what is too much, and folders that hold nothing, below ``v2``.

    ``signed`` is what was so before the run.
    """
    present = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()} - {"_trash.lock"}
    required: set[str] = set()
    allowed: set[str] = set()
    for repository in repositories:
        kept = _kept(tree, repository, stock)
        tags = {**repository.tags(), **_signature_tags(tree, repository.name, kept | signed[repository.name], stock)}
        kept |= set(tags.values())
        required |= set(_required(repository.name, tags, kept))
        allowed |= set(_history(repository, tags, kept))
    faults = [f"missing: {path}" for path in sorted(required - present)]
    faults += [f"left over: {path}" for path in sorted(present - required - allowed)]
    return faults + [f"empty: {path}" for path in _empty_folders(tree)]


def _kept(tree: Path, repository: Repository, stock: Stock) -> set[Item]:
    """The manifests that have to be there, and signatures of them that may be and are."""
    kept = repository.needed()
    for referrer in stock.referrers:
        link = tree / _revision(repository.name, referrer)
        if referrer.subject in kept and link.exists():
            kept.add(referrer)
    return kept


def _signature_tags(tree: Path, repository: str, subjects: set[Item], stock: Stock) -> dict[str, Item]:
    """The signatures by tag that may be there, and are."""
    found = {subject.signature_tag: stock.cosigned[subject] for subject in subjects if subject in stock.cosigned}
    return {tag: item for tag, item in found.items() if (tree / _current(repository, tag)).exists()}


def _required(repository: str, tags: dict[str, Item], kept: set[Item]) -> Iterator[str]:
    folder = f"repositories/{repository}"
    for tag, item in tags.items():
        yield _current(repository, tag)
        yield f"{folder}/_manifests/tags/{tag}/index/{_place(item.digest)}/link"
    for item in kept:
        yield _revision(repository, item)
        yield _data(item.digest)
        if item.subject is not None:
            subject = _place(item.subject.digest)
            yield f"{folder}/_manifests/referrers/{subject}/{_place(item.digest)}/link"
        for digest in map(digest_of, item.blobs):
            yield f"{folder}/_layers/{_place(digest)}/link"
            yield _data(digest)


def _history(repository: Repository, tags: dict[str, Item], kept: set[Item]) -> Iterator[str]:
    """What tags may have named before stays as long as it is kept for something else."""
    digests = {item.digest for item in kept}
    for tag in tags:
        for digest in repository.tried(tag) & digests:
            yield f"repositories/{repository.name}/_manifests/tags/{tag}/index/{_place(digest)}/link"


def _empty_folders(tree: Path) -> Iterator[str]:
    for path in sorted((tree / "repositories").rglob("*")):
        if path.is_dir() and not _may_be_empty(path) and not any(path.iterdir()):
            yield str(path.relative_to(tree))


def _may_be_empty(folder: Path) -> bool:
    if folder.name in ("sha256", "sha512"):
        return folder.parent.name in ("_layers", "revisions", "referrers")
    if folder.name == "_layers":
        return (folder.parent / "_manifests").exists()
    return folder.name == "referrers" and (folder.parent / "tags").exists()


def _current(repository: str, tag: str) -> str:
    return f"repositories/{repository}/_manifests/tags/{tag}/current/link"


def _revision(repository: str, item: Item) -> str:
    return f"repositories/{repository}/_manifests/revisions/{_place(item.digest)}/link"


def _data(digest: str) -> str:
    algorithm, _, hexadecimal = digest.partition(":")
    return f"blobs/{algorithm}/{hexadecimal[:2]}/{hexadecimal}/data"


def _place(digest: str) -> str:
    return digest.replace(":", "/")
