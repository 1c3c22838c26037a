"""What a push renews, to any depth, and for the lack of what it is refused."""

from __future__ import annotations

import time
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from registryd.config import Platform, Validation
from registryd.errors import ManifestBlobUnknown
from registryd.local import SLOW_PUSH
from registryd.model import OCI_ARTIFACT, OCI_MANIFEST, Manifest
from registryd.reference import Digest, Tag
from registryd.storage import layout
from tests.values import (
    GRACE,
    LATEST,
    NAME,
    OCI_CONFIG,
    STRICT,
    TouchedDriver,
    described,
    image,
    index,
    listed,
    local_registry,
    manifest_of,
    put_blob,
)

CONFIG = b"{}"


def blob_paths(*contents: bytes) -> set[str]:
    """Where blobs of the repository stand: their links and bytes."""
    digests = list(map(Digest.of, contents))
    return {layout.layer_link(NAME, digest) for digest in digests} | {layout.blob_data(digest) for digest in digests}


def revision_paths(*manifests: Manifest) -> set[str]:
    """Where manifests of the repository stand: their links and bytes."""
    digests = [manifest.digest for manifest in manifests]
    return {layout.revision_link(NAME, digest) for digest in digests} | {layout.blob_data(digest) for digest in digests}


class PartsCase(SynchronousTestCase):
    validation = STRICT

    def setUp(self) -> None:
        self.driver = TouchedDriver()
        self.ticking = 0.0
        self.passed = 0.0
        self.registry = local_registry(self.driver, validation=self.validation, now=self.now)
        put_blob(self.registry, CONFIG)

    def now(self) -> float:
        self.passed += self.ticking
        return time.time() + self.passed

    def push(self, manifest: Manifest) -> Manifest:
        self.successResultOf(self.registry.put_manifest(NAME, manifest, []))
        return manifest

    def push_image(self, *layers: bytes, **more: object) -> Manifest:
        for layer in layers:
            put_blob(self.registry, layer)
        return self.push(image(CONFIG, *layers, **more))  # type: ignore[arg-type]

    def assertRenews(self, manifest: Manifest, *paths: set[str]) -> None:
        """What is renewed by the push of a manifest, neither more nor less."""
        self.driver.touched.clear()
        self.push(manifest)
        self.assertEqual(self.driver.touched - revision_paths(manifest), set().union(*paths))

    def assertMissing(self, manifest: Manifest, *digests: Digest) -> None:
        failure = self.failureResultOf(self.registry.put_manifest(NAME, manifest, [LATEST]), ManifestBlobUnknown)
        self.assertEqual(set(failure.value.missing), set(map(str, digests)))
        self.failureResultOf(self.registry.get_manifest(NAME, manifest.digest))
        self.failureResultOf(self.registry.get_manifest(NAME, LATEST))


class RenewalTests(PartsCase):
    def test_an_image(self) -> None:
        self.push_image(b"another's")
        put_blob(self.registry, b"layer")
        self.assertRenews(image(CONFIG, b"layer"), blob_paths(CONFIG, b"layer"))

    def test_an_artifact(self) -> None:
        put_blob(self.registry, b"part")
        artifact = manifest_of({"mediaType": OCI_ARTIFACT, "blobs": [described(b"part")]}, OCI_ARTIFACT)
        self.assertRenews(artifact, blob_paths(b"part"))

    def test_an_index_and_its_childrens_layers(self) -> None:
        children = [self.push_image(b"one"), self.push_image(b"two")]
        self.push_image(b"three")
        expected = (revision_paths(*children), blob_paths(CONFIG, b"one", b"two"))
        self.assertRenews(index(*map(listed, children)), *expected)

    def test_to_any_depth(self) -> None:
        manifests = [self.push_image(b"layer")]
        for _ in range(30):
            manifests.append(self.push(index(listed(manifests[-1]))))
        self.assertRenews(index(listed(manifests[-1])), revision_paths(*manifests), blob_paths(CONFIG, b"layer"))

    def test_what_many_share(self) -> None:
        leaf = self.push_image(b"layer")
        level = [leaf]
        for _ in range(12):
            level = [self.push(index(*map(listed, level), annotations={"n": str(n)})) for n in range(2)]
        # 2^12 ways lead to the leaf.
        self.push(index(*map(listed, level)))
        self.assertLessEqual(blob_paths(b"layer"), self.driver.touched)

    def test_what_refers_to_it(self) -> None:
        top = image(CONFIG, b"layer")
        signature = self.push_image(b"signature", subject=listed(top))
        attested = self.push_image(b"attested", subject=listed(signature))
        self.push_image(b"other", subject=described(b"other", OCI_MANIFEST))
        put_blob(self.registry, b"layer")
        expected = (revision_paths(signature, attested), blob_paths(CONFIG, b"layer", b"signature", b"attested"))
        self.assertRenews(top, *expected)

    def test_what_refers_to_its_children(self) -> None:
        child = self.push_image(b"layer")
        signature = self.push_image(b"signature", subject=listed(child))
        signed_index = self.push(index(listed(signature), subject=listed(child)))
        expected = (revision_paths(child, signature, signed_index), blob_paths(CONFIG, b"layer", b"signature"))
        self.assertRenews(index(listed(child)), *expected)

    def test_what_tags_made_of_its_digest_name(self) -> None:
        top = image(CONFIG, b"layer")
        put_blob(self.registry, b"layer")
        expected = [blob_paths(CONFIG, b"layer")]
        for attachment in (b"", b".sig", b".att", b".sbom"):
            attached = self.push_image(b"for" + attachment)
            tag = Tag(f"{top.digest.algorithm}-{top.digest.hex}{attachment.decode()}")
            self.successResultOf(self.registry.put_manifest(NAME, attached, [tag]))
            expected += [revision_paths(attached), blob_paths(b"for" + attachment), {layout.tag_link(NAME, tag)}]
        self.assertRenews(top, *expected)

    def test_its_subject_is_not_relied_on(self) -> None:
        subject = self.push_image(b"subject")
        self.assertRenews(image(CONFIG, subject=listed(subject)), blob_paths(CONFIG))

    def test_a_manifest_that_is_pushed_again_tagged(self) -> None:
        old = self.push_image(b"layer")
        signature = self.push_image(b"signature", subject=listed(old))
        self.assertRenews(old, revision_paths(signature), blob_paths(CONFIG, b"layer", b"signature"))

    def test_an_index_of_layers(self) -> None:
        # As BuildKit's cache has it.
        put_blob(self.registry, b"layer")
        cache = index(described(b"layer"), described(CONFIG, "application/vnd.buildkit.cacheconfig.v0"))
        self.assertRenews(cache, blob_paths(CONFIG, b"layer"))

    def test_an_alias(self) -> None:
        # As Distribution stores what was pushed under sha512.
        stored, alias = Digest.of(b"layer"), Digest.of(b"layer", "sha512")
        self.driver.put_content(layout.blob_data(stored), b"layer")
        self.driver.put_content(layout.layer_link(NAME, alias), str(stored).encode())
        layer = {**described(b"layer"), "digest": str(alias)}
        document = {"schemaVersion": 2, "config": described(CONFIG, OCI_CONFIG), "layers": [layer]}
        paths = {layout.layer_link(NAME, alias), layout.blob_data(stored)}
        self.assertRenews(manifest_of(document), blob_paths(CONFIG), paths)

    def test_an_alias_of_nothing(self) -> None:
        stored, alias = Digest.of(b"layer"), Digest.of(b"layer", "sha512")
        self.driver.put_content(layout.layer_link(NAME, alias), str(stored).encode())
        layer = {**described(b"layer"), "digest": str(alias)}
        document = {"schemaVersion": 2, "config": described(CONFIG, OCI_CONFIG), "layers": [layer]}
        self.assertMissing(manifest_of(document), alias)

    def test_what_a_type_that_is_not_known_mentions(self) -> None:
        child = self.push_image(b"layer")
        put_blob(self.registry, b"blob")
        mentioned = [str(child.digest), {"x": f"y {Digest.of(b'blob')}"}, str(Digest.of(b"absent"))]
        unknown = manifest_of({"said": mentioned}, "application/vnd.example+json")
        self.assertRenews(unknown, revision_paths(child), blob_paths(CONFIG, b"layer", b"blob"))

    def test_what_a_slow_push_relies_on_once_more(self) -> None:
        child = self.push_image(b"layer")
        later = index(listed(child))
        touches: list[str] = []
        for self.ticking in (0.0, GRACE * SLOW_PUSH * 2):
            self.driver.touched.clear()
            real = self.driver.put_content

            def put_content(path: str, content: bytes, above: bool = False, real: Callable[..., None] = real) -> None:
                # As if the bytes took their time: what was renewed before is old by then.
                if path == layout.blob_data(later.digest):
                    touches.append(f"{len(self.driver.touched)} before")
                    self.driver.touched.clear()
                real(path, content, above)

            self.patch(self.driver, "put_content", put_content)
            self.push(later)
            self.patch(self.driver, "put_content", real)
            touches.append(f"{len(self.driver.touched)} after")
        number = len(revision_paths(child) | blob_paths(CONFIG, b"layer"))
        # And what was pushed itself, whose link and bytes are older than its last tag by then.
        whole = number + len(revision_paths(later))
        self.assertEqual(touches, [f"{number} before", "0 after", f"{number} before", f"{whole} after"])


class RefusalTests(PartsCase):
    def test_parts_that_are_missing(self) -> None:
        put_blob(self.registry, b"there")
        self.assertMissing(image(CONFIG, b"there", b"gone", b"lost"), Digest.of(b"gone"), Digest.of(b"lost"))

    def test_a_part_that_is_missing_deep_down(self) -> None:
        child = self.push_image(b"layer")
        between = self.push(index(listed(child)))
        self.successResultOf(self.registry.delete_blob(NAME, Digest.of(b"layer")))
        self.assertMissing(index(listed(between)), Digest.of(b"layer"))

    def test_bytes_that_are_missing_behind_a_link(self) -> None:
        put_blob(self.registry, b"layer")
        self.driver.delete(layout.blob_data(Digest.of(b"layer")))
        self.assertMissing(image(CONFIG, b"layer"), Digest.of(b"layer"))

    def test_a_child_whose_bytes_are_missing(self) -> None:
        child = self.push_image()
        self.driver.delete(layout.blob_data(child.digest))
        self.assertMissing(index(listed(child)), child.digest)

    def test_a_child_whose_bytes_are_damaged(self) -> None:
        document = {"schemaVersion": 2, "config": described(CONFIG, OCI_CONFIG)}
        child = self.push(manifest_of(document))
        self.driver.put_content(layout.blob_data(child.digest), child.content + b" ")
        self.assertMissing(index(listed(child)), child.digest)
        self.flushLoggedErrors()

    def test_parts_of_what_refers_to_it_may_be_missing(self) -> None:
        child = self.push_image(b"layer")
        signature = self.push_image(b"signature", subject=listed(child))
        self.successResultOf(self.registry.delete_blob(NAME, Digest.of(b"signature")))
        self.assertRenews(index(listed(child)), revision_paths(child, signature), blob_paths(CONFIG, b"layer"))

    def test_parts_that_are_elsewhere_may_be_missing(self) -> None:
        foreign = described(b"foreign", urls=["https://example.com/foreign"])
        document = {"schemaVersion": 2, "config": described(CONFIG, OCI_CONFIG), "layers": [foreign]}
        self.assertRenews(manifest_of(document), blob_paths(CONFIG))

    def test_a_child_that_is_relied_on_and_refers_to_another(self) -> None:
        first = self.push_image(b"first")
        second = self.push_image(b"second", subject=listed(first))
        nested = self.push(index(listed(second)))
        self.successResultOf(self.registry.delete_blob(NAME, Digest.of(b"second")))
        for children in ([first, nested], [nested, first]):
            self.assertMissing(index(*map(listed, children)), Digest.of(b"second"))

    def test_a_child_that_is_a_layer_of_another(self) -> None:
        inner = self.push_image(b"inner")
        nested = self.push(index(listed(inner)))
        # The same bytes, as a blob.
        outer = self.push_image(inner.content)
        for children in ([outer, nested], [nested, outer]):
            self.driver.touched.clear()
            self.push(index(*map(listed, children)))
            self.assertLessEqual(blob_paths(b"inner"), self.driver.touched)

    def test_a_child_that_is_mentioned_as_a_layer_where_it_is_none(self) -> None:
        inner = self.push_image(b"inner")
        nested = self.push(index(listed(inner)))
        layer = {**described(inner.content), "urls": ["https://example.com/inner"]}
        outer = self.push(manifest_of({"schemaVersion": 2, "config": described(CONFIG, OCI_CONFIG), "layers": [layer]}))
        for children in ([outer, nested], [nested, outer]):
            self.push(index(*map(listed, children)))


class SparseCase(PartsCase):
    def children(self) -> tuple[Manifest, Manifest, Manifest]:
        """An index of two platforms; the image of each."""
        amd, arm = image(CONFIG, b"amd"), image(CONFIG, b"arm")
        platforms = [{"os": "linux", "architecture": name} for name in ("amd64", "arm64")]
        top = index(*(listed(child, platform=platform) for child, platform in zip((amd, arm), platforms, strict=True)))
        return top, amd, arm


class AllPlatformsTests(SparseCase):
    def test_every_child_must_be_there(self) -> None:
        top, amd, arm = self.children()
        self.assertMissing(top, amd.digest, arm.digest)


class ListedPlatformsTests(SparseCase):
    validation = Validation(False, None, "list", (Platform("linux", "amd64"),))

    def test_a_child_of_a_platform_that_is_listed_must_be_there(self) -> None:
        top, amd, _ = self.children()
        self.assertMissing(top, amd.digest)
        self.push_image(b"amd")
        self.assertRenews(top, revision_paths(amd), blob_paths(CONFIG, b"amd"))

    def test_a_child_that_is_there_must_be_whole(self) -> None:
        top, _, arm = self.children()
        self.push_image(b"amd")
        self.push_image(b"arm")
        self.successResultOf(self.registry.delete_blob(NAME, Digest.of(b"arm")))
        self.assertMissing(top, Digest.of(b"arm"))
        self.assertEqual(self.successResultOf(self.registry.get_manifest(NAME, arm.digest)), arm)


class NoPlatformsTests(SparseCase):
    validation = Validation(False, None, "none", ())

    def test_no_child_must_be_there(self) -> None:
        top, _, arm = self.children()
        self.push_image(b"arm")
        self.assertRenews(top, revision_paths(arm), blob_paths(CONFIG, b"arm"))

    def test_layers_of_an_image_must_be_there_all_the_same(self) -> None:
        self.assertMissing(image(CONFIG, b"gone"), Digest.of(b"gone"))


class DisabledTests(SparseCase):
    validation = Validation(True, None, "all", ())

    def test_nothing_must_be_there_and_what_is_there_is_renewed(self) -> None:
        top, amd, _ = self.children()
        self.push_image(b"amd")
        self.assertRenews(top, revision_paths(amd), blob_paths(CONFIG, b"amd"))
        self.assertRenews(image(CONFIG, b"gone"), blob_paths(CONFIG))
