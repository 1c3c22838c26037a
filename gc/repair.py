"""Mending what is damaged; no manifest and no tag is ever removed by it.

Who mends holds the collector's lock. Daemons push and pull meanwhile: what is taken away is set aside, looked at once
more where nobody can reach it, and put back if it is not what was found; a link is only written where none that can be
read stands.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final

import attrs

from registryd.errors import DigestInvalid, ManifestInvalid
from registryd.reference import Digest, RepositoryName, Tag
from registryd.storage import layout
from registryd.storage.interfaces import IStorageDriver
from registryd_gc.census import Census, names
from registryd_gc.digests import LENGTHS, digest, from_name
from registryd_gc.reading import Reading
from registryd_gc.report import Damage
from registryd_gc.trash import Trash

DAMAGED = f"{layout.ROOT}/_damaged"
"""Where damaged blobs are kept for the operator, as ``<alg>/<hex>.<run>``; nobody else looks there."""

ATTEMPTS = 3
"""How often a blob is read once more where it was renewed meanwhile."""

_BLOB = re.compile(rf"{layout.BLOBS}/(\w+)/../([0-9a-f]+)/data")
_LINK = re.compile(
    rf"{layout.REPOSITORIES}/(?P<name>.+?)/"
    r"(?:(?P<kind>_layers|_manifests/revisions|_manifests/referrers/\w+/[0-9a-f]+)/(?P<algorithm>\w+)/(?P<hex>[0-9a-f]+)"
    r"|_manifests/tags/(?P<tag>[^/]+)/current)/link"
)


def read_link(driver: IStorageDriver, path: str) -> Digest | None:
    """The digest that a link holds; None where it holds none.

    Errors:
        FileNotFoundError: there is no link.
    """
    try:
        return Digest.parse(driver.get_content(path).decode("ascii").strip())
    except (DigestInvalid, UnicodeDecodeError):
        return None


def is_right(found: Digest | None, named: Digest, aliased: bool) -> bool:
    """Whether a link that should name a digest does; ``aliased``: Distribution's may name one of another algorithm."""
    return found is not None and (found == named or (aliased and found.algorithm != named.algorithm))


@attrs.define
class Manifests:
    """The manifests of all repositories. A damaged one stays: without it, nobody would know what else it needs."""

    driver: IStorageDriver
    _all: set[bytes] | None = attrs.field(default=None, init=False)

    def hold(self, blob: bytes) -> bool:
        """Whether a repository holds a blob as a manifest, or did when this was first asked."""
        if self._all is None:
            self._all = set(self._revisions())
        return blob in self._all

    def _revisions(self) -> Iterator[bytes]:
        for name in names(self.driver):
            for algorithm in LENGTHS:
                for entry in self.driver.entries(f"{layout.revisions(name)}/{algorithm}"):
                    manifest = from_name(algorithm, entry.name)
                    if manifest is not None:
                        yield manifest


@attrs.define
class Repair:
    """Mends damage, whoever found it. ``reading`` reads blobs once more before they are taken away."""

    driver: IStorageDriver
    trash: Trash
    reading: Reading
    _manifests: Manifests = attrs.field(init=False)
    _taken: dict[Digest, float] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self._manifests = Manifests(self.driver)

    def awaited_since(self, blob: Digest) -> float:
        """When a link of a missing blob must have been written, or renewed, for the blob to be on its way.

        An upload that ends writes the link first.
        """
        return self._taken.get(blob, self.trash.cutoff)

    def mend(self, damage: Damage) -> Damage:
        """Mend damage, where that can be; what is gone or right by now is damage no more."""
        mend = _MENDED_BY.get(damage.kind)
        if mend is None or damage.repaired:
            return damage
        try:
            if self.driver.stat(damage.path).is_folder:
                return damage
            return attrs.evolve(damage, repaired=mend(self, damage.path))
        except FileNotFoundError:
            return attrs.evolve(damage, repaired=True)
        except OSError as error:
            return attrs.evolve(damage, detail=f"{damage.detail}; cannot be repaired: {error}")

    # Blobs

    def _mend_blob(self, path: str) -> bool:
        """Take away a blob that nobody can use, so that a push or a mirror brings it anew."""
        match = _BLOB.fullmatch(path)
        blob = from_name(match[1], match[2]) if match is not None and match[1] in LENGTHS else None
        if blob is None or self._manifests.hold(blob):
            return False
        for _ in range(ATTEMPTS):
            version = self.driver.stat(path).version
            if self.reading.wrong(blob) is None:
                return True
            if self.driver.stat(path).version == version and self._take_away(blob, path, version):
                return True
        return False

    def _take_away(self, blob: bytes, path: str, version: object) -> bool:
        """Take away the content with a version; false where another stands by now."""
        since = time.time()
        aside, stat = self.trash.set_aside_legibly(path)
        named = digest(blob)
        try:
            if stat.version != version:
                self.driver.put_back(aside, path)
                return False
            self.driver.set_aside(aside, f"{DAMAGED}/{named.algorithm}/{named.hex}.{self.trash.run}")
        except BaseException:
            with suppress(OSError):
                self.driver.put_back(aside, path)
            raise
        self._taken[named] = since
        self.driver.prune(path.rpartition("/")[0], layout.BLOBS)
        return True

    # Links

    def _mend_link(self, path: str) -> bool:
        """Write a link anew that cannot be read, where what it has to say is known."""
        match = _LINK.fullmatch(path)
        if match is None:
            return False
        name = RepositoryName(match["name"])
        if match["tag"] is not None:
            return self._mend_tag(name, Tag(match["tag"]), path)
        blob = from_name(match["algorithm"], match["hex"]) if match["algorithm"] in LENGTHS else None
        if blob is None:
            return False
        if match["kind"] == "_layers":
            return self._mend_layer(name, blob, path)
        if match["kind"] == "_manifests/revisions":
            return self._is_manifest(name, blob) and self._write(name, path, digest(blob), False)
        return self._stands(name, blob) and self._write(name, path, digest(blob), False)

    def _mend_dangling(self, path: str) -> bool:
        """Remove a layer's link to a blob that is gone; a manifest's and a tag's stay, to tell what was there."""
        match = _LINK.fullmatch(path)
        if match is None or match["kind"] != "_layers":
            return False
        target = read_link(self.driver, path)
        if target is not None and self.driver.stat(path).modified > self.awaited_since(target):
            return False
        return self._remove(RepositoryName(match["name"]), path, self._dangles)

    def _mend_layer(self, name: RepositoryName, blob: bytes, path: str) -> bool:
        named = digest(blob)
        if self._holds(named):
            return self._write(name, path, named, True)

        def is_useless(link: str) -> bool:
            return not is_right(read_link(self.driver, link), named, True) and not self._holds(named)

        # One of SHA-512 may have named a blob of SHA-256, as Distribution's do: it stays for what it may tell yet.
        return named.algorithm == "sha256" and self._remove(name, path, is_useless)

    def _mend_tag(self, name: RepositoryName, tag: Tag, path: str) -> bool:
        """Let a tag name what was pushed to it last, if that is a manifest of the repository."""
        with self._guarded(name):
            pushed = sorted(self._history(name, tag), reverse=True)
            if not pushed or (len(pushed) > 1 and pushed[0][0] == pushed[1][0]):
                return False
            last = pushed[0][1]
            return self._stands(name, last) and self._replace(path, digest(last), lambda found: found is not None)

    def _history(self, name: RepositoryName, tag: Tag) -> Iterator[tuple[float, bytes]]:
        """When what was pushed to a tag."""
        for algorithm in LENGTHS:
            for leaf in self.driver.leaves(f"{layout.tag_history(name, tag)}/{algorithm}", "link", False):
                manifest = from_name(algorithm, leaf.name)
                if manifest is not None and leaf.size is not None:
                    yield leaf.modified, manifest

    def _write(self, name: RepositoryName, path: str, named: Digest, aliased: bool) -> bool:
        with self._guarded(name):
            return self._replace(path, named, lambda found: is_right(found, named, aliased))

    def _replace(self, path: str, named: Digest, may_stay: Callable[[Digest | None], bool]) -> bool:
        """Let a link name a digest, unless it names something that may stay."""
        mended = f"{layout.TRASH}/{self.trash.run}/mended"
        if may_stay(read_link(self.driver, path)):
            return True
        self.driver.put_content(mended, str(named).encode("ascii"))
        aside = self.trash.set_aside(path)
        try:
            if not may_stay(read_link(self.driver, aside)):
                # False where somebody has written it meanwhile: then it is as good.
                self.driver.put_back(mended, path)
                self.driver.discard(aside)
                return True
        except BaseException:
            with suppress(OSError):
                self.driver.put_back(aside, path)
            raise
        self.driver.put_back(aside, path)
        return True

    def _remove(self, name: RepositoryName, path: str, is_useless: Callable[[str], bool]) -> bool:
        """Remove a layer's link, if it still is of no use when nobody can reach it."""
        with self._guarded(name):
            aside = self.trash.set_aside(path)
            try:
                useless = is_useless(aside)
            except BaseException:
                with suppress(OSError):
                    self.driver.put_back(aside, path)
                raise
            if useless:
                self.driver.discard(aside)
                # The folder of all layers stays: without it, Distribution 2.8 collects the repository's manifests.
                self.driver.prune(path.rpartition("/")[0], layout.layers(name))
            else:
                self.driver.put_back(aside, path)
        return True

    def _dangles(self, link: str) -> bool:
        target = read_link(self.driver, link)
        if target is None or self.driver.stat(link).modified > self.awaited_since(target):
            return False
        return not self._holds(target)

    @contextmanager
    def _guarded(self, name: RepositoryName) -> Iterator[None]:
        """Keep daemons from deleting, and pushing, what a repository holds."""
        with self.driver.guard(layout.repository(name), True):
            yield
            self.driver.prune(layout.repository(name), layout.REPOSITORIES)

    def _stands(self, name: RepositoryName, manifest: bytes) -> bool:
        """Whether a repository holds a manifest, whole."""
        try:
            link = read_link(self.driver, layout.revision_link(name, digest(manifest)))
        except FileNotFoundError:
            return False
        return link == digest(manifest) and self._is_manifest(name, manifest)

    def _is_manifest(self, name: RepositoryName, manifest: bytes) -> bool:
        try:
            Census(self.driver).document(name, manifest)
        except (FileNotFoundError, ManifestInvalid):
            return False
        return True

    def _holds(self, blob: Digest) -> bool:
        """Whether there is a blob, and not an empty file in its place."""
        try:
            return blob.may_be_of(self.driver.stat(layout.blob_data(blob)).size)
        except FileNotFoundError:
            return False


_MENDED_BY: Final[Mapping[str, Callable[[Repair, str], bool]]] = {
    "digest": Repair._mend_blob,
    "empty": Repair._mend_blob,
    "link": Repair._mend_link,
    "dangling": Repair._mend_dangling,
}
