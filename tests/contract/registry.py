"""What every registry must do, as mixins for a test case, one for each part of the interface."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, maybeDeferred
from zope.interface.verify import verifyObject

from registryd.errors import (
    BlobUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameUnknown,
    PreconditionFailed,
    RangeInvalid,
    StorageFull,
    UploadUnknown,
)
from registryd.interfaces import (
    Condition,
    IBlobReader,
    IBlobWriter,
    IFileBlobReader,
    IRegistry,
    Page,
    PeerGone,
    UploadStatus,
)
from registryd.model import (
    DOCKER_MANIFEST,
    DOCKER_SCHEMA1,
    OCI_INDEX,
    OCI_MANIFEST,
    OCTET_STREAM,
    Descriptor,
    Manifest,
)
from registryd.reference import Digest, RepositoryName, Tag
from tests.values import (
    LATEST,
    NAME,
    OCI_CONFIG,
    OTHER,
    Sink,
    Source,
    described,
    image,
    index,
    listed,
    manifest_of,
)

if TYPE_CHECKING:
    from twisted.trial.unittest import TestCase as _Case
else:
    _Case = object

CONFIG = b"{}"
LAYER = b"a layer"
IMAGE = image(CONFIG, LAYER)
LARGE = bytes(range(256)) * 4096
"""1 MiB: more than what is stored, or delivered, at once."""

ABSENT = Digest.of(b"what nobody has pushed")
NOWHERE = RepositoryName("no/where")
V1, V2 = Tag("v1"), Tag("v2")


class _Contract(_Case):
    """What the parts have in common: ``make_origin`` gives an empty registry, ``make_registry`` the one that is tested.

    They are the same but for filters, which let a part of the origin through.
    """

    def make_origin(self) -> IRegistry:
        raise NotImplementedError

    def make_registry(self, origin: IRegistry) -> IRegistry:
        return origin

    def setUp(self) -> None:
        self.origin = self.make_origin()
        self.registry = self.make_registry(self.origin)

    async def push_blob(self, content: bytes, name: RepositoryName = NAME, algorithm: str = "sha256") -> Digest:
        writer = await self.origin.start_upload(name, algorithm)
        writer.write(content)
        return (await writer.commit(Digest.of(content, algorithm))).digest

    async def push(self, manifest: Manifest, *tags: Tag, name: RepositoryName = NAME) -> Manifest:
        await self.origin.put_manifest(name, manifest, tags)
        return manifest

    async def push_image(self, *tags: Tag, name: RepositoryName = NAME, layer: bytes = LAYER) -> Manifest:
        await self.push_blob(CONFIG, name)
        await self.push_blob(layer, name)
        return await self.push(image(CONFIG, layer), *tags, name=name)

    async def open_blob(self, digest: Digest, name: RepositoryName = NAME) -> IBlobReader:
        reader = await self.registry.open_blob(name, digest)
        self.addCleanup(reader.close)
        return reader

    async def holds(self, digest: Digest, name: RepositoryName = NAME) -> bool:
        """Whether a repository has a blob."""
        try:
            await self.registry.resolve_blob(name, digest)
        except (BlobUnknown, NameUnknown):
            return False
        return True

    async def assertManifestUnknown(self, reference: Tag | Digest, name: RepositoryName = NAME) -> None:
        for call in (self.registry.get_manifest, self.registry.resolve_manifest):
            with self.assertRaises(ManifestUnknown):
                await call(name, reference)

    async def assertListed(self, repositories: list[str], name: RepositoryName, tags: list[str]) -> None:
        self.assertEqual(await self.registry.repositories(None, ""), Page(tuple(repositories), False))
        self.assertEqual(await self.registry.tags(name, None, ""), Page(tuple(tags), False))


class ReaderContract(_Contract):
    """What every IReader must do."""

    def test_is_a_registry(self) -> None:
        verifyObject(IRegistry, self.registry)

    # open_blob

    async def test_open_blob_is_a_reader(self) -> None:
        digest = await self.push_blob(LARGE)
        reader = await self.open_blob(digest)
        verifyObject(IFileBlobReader if IFileBlobReader.providedBy(reader) else IBlobReader, reader)
        self.assertIsInstance(reader.at_hand, bool)
        self.assertTrue(reader.at_hand or not IFileBlobReader.providedBy(reader))
        self.assertEqual(reader.descriptor, Descriptor(OCTET_STREAM, digest, len(LARGE)))

    async def test_open_blob_reads(self) -> None:
        reader = await self.open_blob(await self.push_blob(b"0123456789"))
        spans = {(0, 10): b"0123456789", (3, 5): b"34", (9, 10): b"9", (4, 4): b""}
        self.assertEqual({span: reader.read(*span) for span in spans}, spans)

    async def test_open_blob_delivers(self) -> None:
        reader = await self.open_blob(await self.push_blob(LARGE))
        for start, stop in ((0, len(LARGE)), (1, len(LARGE) - 1), (700_000, 700_001), (5, 5), (0, 0)):
            sink = Sink()
            await reader.deliver_to(sink, start, stop)
            self.assertTrue(sink.content == LARGE[start:stop], (start, stop))
            self.assertIsNone(sink.producer)

    async def test_open_blob_delivers_as_fast_as_the_consumer_takes(self) -> None:
        reader = await self.open_blob(await self.push_blob(LARGE))
        sink = Sink(greedy=False)
        delivered = reader.deliver_to(sink, 0, len(LARGE))
        await sink.piece(1)
        while len(sink.content) < len(LARGE):
            number = len(sink.pieces)
            self.assertFalse(delivered.called)
            sink.resume()
            await sink.piece(number + 1)
            self.assertEqual(len(sink.pieces), number + 1)
        if not delivered.called and sink.producer is not None:
            sink.resume()
        await delivered
        self.assertTrue(sink.content == LARGE)

    async def test_open_blob_deliver_to_peer_gone(self) -> None:
        reader = await self.open_blob(await self.push_blob(LARGE))
        sink = Sink(greedy=False)
        delivered = reader.deliver_to(sink, 0, len(LARGE))
        await sink.piece(1)
        assert sink.producer is not None
        sink.producer.stopProducing()
        with self.assertRaises(PeerGone):
            await delivered
        self.assertEqual((len(sink.pieces), sink.producer), (1, None))

    async def test_open_blob_of_a_file_tells_where_it_lies(self) -> None:
        reader = await self.open_blob(await self.push_blob(LARGE))
        if IFileBlobReader.providedBy(reader):
            with open(reader.fileno(), "rb", closefd=False) as file:
                self.assertTrue(file.read() == LARGE)

    async def test_open_blob_closes_twice(self) -> None:
        reader = await self.open_blob(await self.push_blob(LAYER))
        reader.close()
        reader.close()

    async def test_open_blob_empty(self) -> None:
        reader = await self.open_blob(await self.push_blob(b""))
        self.assertEqual((reader.descriptor.size, reader.read(0, 0)), (0, b""))

    async def test_open_blob_sha512(self) -> None:
        digest = await self.push_blob(LAYER, algorithm="sha512")
        reader = await self.open_blob(digest)
        self.assertEqual((reader.descriptor.digest, reader.read(0, len(LAYER))), (digest, LAYER))

    async def test_open_blob_name_unknown(self) -> None:
        digest = await self.push_blob(LAYER)
        with self.assertRaises(NameUnknown):
            await self.registry.open_blob(NOWHERE, digest)

    async def test_open_blob_blob_unknown(self) -> None:
        await self.push_blob(LAYER)
        elsewhere = await self.push_blob(b"elsewhere", OTHER)
        for digest in (ABSENT, elsewhere, Digest.of(LAYER, "sha512")):
            with self.assertRaises(BlobUnknown):
                await self.registry.open_blob(NAME, digest)

    # resolve_blob

    async def test_resolve_blob(self) -> None:
        digest = await self.push_blob(LAYER)
        self.assertEqual(await self.registry.resolve_blob(NAME, digest), Descriptor(OCTET_STREAM, digest, len(LAYER)))

    async def test_resolve_blob_name_unknown(self) -> None:
        digest = await self.push_blob(LAYER)
        with self.assertRaises(NameUnknown):
            await self.registry.resolve_blob(NOWHERE, digest)

    async def test_resolve_blob_blob_unknown(self) -> None:
        await self.push_blob(LAYER)
        elsewhere = await self.push_blob(b"elsewhere", OTHER)
        for digest in (ABSENT, elsewhere):
            with self.assertRaises(BlobUnknown):
                await self.registry.resolve_blob(NAME, digest)

    # get_manifest and resolve_manifest

    async def test_get_manifest(self) -> None:
        await self.push_image(V1, V2)
        for reference in (V1, V2, IMAGE.digest):
            # Twice: what comes from a cache is the same.
            for _ in range(2):
                self.assertEqual(await self.registry.get_manifest(NAME, reference), IMAGE)
                self.assertEqual(await self.registry.resolve_manifest(NAME, reference), IMAGE.descriptor)

    async def test_get_manifest_sha512(self) -> None:
        await self.push_image()
        manifest = await self.push(image(CONFIG, LAYER, algorithm="sha512"), V1)
        for reference in (V1, manifest.digest):
            self.assertEqual(await self.registry.get_manifest(NAME, reference), manifest)

    async def test_get_manifest_gives_the_type_it_was_pushed_with(self) -> None:
        await self.push_image()
        document = {"schemaVersion": 2, "config": described(CONFIG, OCI_CONFIG), "layers": []}
        for name, media_type in ((NAME, DOCKER_MANIFEST), (NAME, OCI_MANIFEST), (OTHER, DOCKER_MANIFEST)):
            await self.push_blob(CONFIG, name)
            manifest = await self.push(manifest_of(document, media_type), V1, name=name)
            self.assertEqual(await self.registry.get_manifest(name, V1), manifest)
        self.assertEqual((await self.registry.get_manifest(NAME, V1)).media_type, OCI_MANIFEST)

    async def test_get_manifest_of_a_type_that_nobody_knows(self) -> None:
        content = b"\x00 not JSON"
        manifest = Manifest("application/vnd.example+json", Digest.of(b"{}"), b"{}")
        await self.push(manifest, V1)
        self.assertEqual(await self.registry.get_manifest(NAME, V1), manifest)
        with self.assertRaises(ManifestInvalid):
            await self.push(Manifest("application/vnd.example", Digest.of(content), content))

    async def test_get_manifest_name_unknown(self) -> None:
        await self.push_image(V1)
        for reference in (V1, IMAGE.digest):
            for call in (self.registry.get_manifest, self.registry.resolve_manifest):
                with self.assertRaises(NameUnknown):
                    await call(NOWHERE, reference)

    async def test_get_manifest_manifest_unknown(self) -> None:
        await self.push_image(V1)
        await self.push_image(V2, name=OTHER, layer=b"another")
        other = image(CONFIG, b"another").digest
        # A blob is no manifest.
        for reference in (V2, ABSENT, Digest.of(LAYER), other):
            await self.assertManifestUnknown(reference)


class ListerContract(_Contract):
    """What every ILister must do."""

    async def test_repositories_in_the_order_of_their_bytes(self) -> None:
        names = ["a", "a-b", "a-b/c", "a.b", "a/b", "a/b-c", "a/b/c", "a0", "b", "z/y/x"]
        for name in reversed(names):
            await self.push_image(V1, name=RepositoryName(name))
        self.assertEqual(names, sorted(names))
        self.assertEqual(await self.registry.repositories(None, ""), Page(tuple(names), False))

    async def test_repositories_in_pages(self) -> None:
        names = ["a", "a-b", "a/b", "a/b/c", "b"]
        for name in names:
            await self.push_image(V1, name=RepositoryName(name))
        for after in ("", *names, "a/", "a-", "a/b/", "a0", "0", "b/b", "\xff", "zzz"):
            rest = [name for name in names if name > after]
            for count in range(7):
                expected = Page(tuple(rest[:count]), len(rest) > count)
                self.assertEqual(await self.registry.repositories(count, after), expected, (after, count))
            self.assertEqual(await self.registry.repositories(None, after), Page(tuple(rest), False))

    async def test_repositories_of_an_empty_registry(self) -> None:
        self.assertEqual(await self.registry.repositories(None, ""), Page((), False))

    async def test_repositories_without_a_manifest_are_not_listed(self) -> None:
        await self.push_blob(LAYER)
        await (await self.origin.start_upload(OTHER, "sha256")).suspend()
        self.assertEqual(await self.registry.repositories(None, ""), Page((), False))

    async def test_tags_in_the_order_of_their_bytes(self) -> None:
        tags = [Tag(text) for text in ("10", "9", "A", "Z", "_a", "a", "a-1", "a.1", "a1", "v")]
        await self.push_image(*reversed(tags))
        self.assertEqual(await self.registry.tags(NAME, None, ""), Page(tuple(sorted(tags)), False))

    async def test_tags_in_pages(self) -> None:
        tags = ["a", "b", "c"]
        await self.push_image(*map(Tag, tags))
        for after in ("", *tags, "aa", "0", "d"):
            rest = [tag for tag in tags if tag > after]
            for count in range(5):
                expected = Page(tuple(rest[:count]), len(rest) > count)
                self.assertEqual(await self.registry.tags(NAME, count, after), expected, (after, count))

    async def test_tags_of_a_repository_without_any(self) -> None:
        await self.push_image()
        self.assertEqual(await self.registry.tags(NAME, None, ""), Page((), False))

    async def test_tags_name_unknown(self) -> None:
        await self.push_image(V1)
        for name in (NOWHERE, RepositoryName("team")):
            with self.assertRaises(NameUnknown):
                await self.registry.tags(name, None, "")

    async def test_referrers(self) -> None:
        subject = await self.push_image()
        signature = await self.push(image(CONFIG, subject=listed(subject), artifactType="application/x.signature"))
        config_type = await self.push(image(CONFIG, subject=listed(subject), annotations={"a": "b"}))
        child = await self.push(index(subject=listed(subject)))
        await self.push(image(CONFIG, LAYER, subject=listed(signature)))
        referrers = (await self.registry.referrers(NAME, subject.digest)).referrers
        found = [(referrer.descriptor, referrer.artifact_type, referrer.annotations) for referrer in referrers]
        expected = [
            (signature.descriptor, "application/x.signature", {}),
            (config_type.descriptor, OCI_CONFIG, {"a": "b"}),
            (child.descriptor, None, {}),
        ]
        self.assertEqual(found, sorted(expected, key=lambda referrer: referrer[0].digest))

    async def test_referrers_of_what_is_not_there(self) -> None:
        await self.push_image()
        missing = manifest_of({"not": "pushed"})
        referrer = await self.push(image(CONFIG, subject=listed(missing)))
        self.assertEqual(
            [r.descriptor for r in (await self.registry.referrers(NAME, missing.digest)).referrers],
            [referrer.descriptor],
        )
        self.assertEqual(list((await self.registry.referrers(NAME, ABSENT)).referrers), [])
        self.assertEqual(list((await self.registry.referrers(NOWHERE, missing.digest)).referrers), [])

    async def test_referrers_of_an_artifact_type(self) -> None:
        subject = await self.push_image()
        await self.push(image(CONFIG, subject=listed(subject)))
        wanted = await self.push(image(CONFIG, subject=listed(subject), artifactType="application/x.wanted"))
        await self.push(index(subject=listed(subject)))
        other = await self.push(image(CONFIG, subject=listed(subject), artifactType="application/x.other"))
        for artifact_types, expected in (
            (["application/x.wanted"], [wanted]),
            (["application/x.other", "application/x", "application/x.wanted"], [wanted, other]),
            (["application/x"], []),
            ([""], []),
        ):
            page = await self.registry.referrers(NAME, subject.digest, artifact_types)
            found = [referrer.descriptor.digest for referrer in page.referrers]
            self.assertEqual((found, page.more), (sorted(each.digest for each in expected), False), artifact_types)

    async def test_referrers_after_a_digest(self) -> None:
        subject = await self.push_image()
        for number in range(4):
            await self.push(image(CONFIG, subject=listed(subject), annotations={"n": str(number)}))
        every = [each.descriptor.digest for each in (await self.registry.referrers(NAME, subject.digest)).referrers]
        self.assertEqual((len(every), every), (4, sorted(every)))
        for after in (*every, Digest("sha256", "0" * 64), Digest("sha512", "0" * 128)):
            page = await self.registry.referrers(NAME, subject.digest, None, after)
            found = [referrer.descriptor.digest for referrer in page.referrers]
            self.assertEqual((found, page.more), ([digest for digest in every if digest > after], False))

    async def test_referrers_of_another_repository_are_not_told(self) -> None:
        subject = await self.push_image()
        await self.push_image(name=OTHER)
        await self.push(image(CONFIG, subject=listed(subject)), name=OTHER)
        self.assertEqual(list((await self.registry.referrers(NAME, subject.digest)).referrers), [])

    async def test_referrers_under_the_tag_of_the_schema(self) -> None:
        subject = await self.push_image()
        referrer = await self.push(image(CONFIG, subject=listed(subject)))
        stranger = await self.push(image(CONFIG))
        await self.push(index(listed(referrer), listed(stranger)), subject.digest.referrers_tag)
        referrers = (await self.registry.referrers(NAME, subject.digest)).referrers
        self.assertEqual([found.descriptor for found in referrers], [referrer.descriptor])


class WriterContract(_Contract):
    """What every IWriter must do."""

    async def assertNothingVisible(self) -> None:
        self.assertEqual(await self.registry.repositories(None, ""), Page((), False))
        with self.assertRaises(NameUnknown):
            await self.registry.tags(NAME, None, "")

    # Upload sessions

    async def test_start_upload_is_a_writer(self) -> None:
        writer = await self.registry.start_upload(NAME, "sha256")
        verifyObject(IBlobWriter, writer)
        self.assertEqual((writer.size, await writer.suspend()), (0, 0))

    async def test_start_upload_sessions_differ(self) -> None:
        writers = [await self.registry.start_upload(NAME, "sha256") for _ in range(4)]
        self.assertEqual(len({writer.id for writer in writers}), 4)
        for writer in writers:
            await writer.cancel()

    async def test_start_upload_digest_invalid(self) -> None:
        for algorithm in ("md5", "sha1", "SHA256", "sha384", "blake3", "", "sha256:"):
            with self.assertRaises(DigestInvalid):
                await self.registry.start_upload(NAME, algorithm)
        await self.assertNothingVisible()

    async def test_commit(self) -> None:
        for algorithm in ("sha256", "sha512"):
            for content in (b"", LAYER, LARGE):
                writer = await self.registry.start_upload(NAME, algorithm)
                writer.write(content)
                self.assertEqual(writer.size, len(content))
                digest = Digest.of(content, algorithm)
                self.assertEqual(await writer.commit(digest), Descriptor(OCTET_STREAM, digest, len(content)))
                self.assertEqual((await self.registry.resolve_blob(NAME, digest)).size, len(content))

    async def test_commit_of_many_pieces(self) -> None:
        writer = await self.registry.start_upload(NAME, "sha256")
        for start in range(0, len(LARGE), 100_000):
            writer.write(LARGE[start : start + 100_000])
        await writer.commit(Digest.of(LARGE))
        reader = await self.open_blob(Digest.of(LARGE))
        self.assertTrue(reader.read(0, len(LARGE)) == LARGE)

    async def test_commit_with_another_algorithm(self) -> None:
        writer = await self.registry.start_upload(NAME, "sha256")
        writer.write(LARGE)
        await writer.commit(Digest.of(LARGE, "sha512"))
        self.assertTrue(await self.holds(Digest.of(LARGE, "sha512")))

    async def test_commit_of_what_is_there_already(self) -> None:
        for _ in range(2):
            await self.push_blob(LAYER)
        reader = await self.open_blob(Digest.of(LAYER))
        self.assertEqual(reader.read(0, len(LAYER)), LAYER)

    async def test_commit_ends_the_session(self) -> None:
        writer = await self.registry.start_upload(NAME, "sha256")
        await writer.commit(Digest.of(b""))
        await self.assertUploadUnknown(writer.id)

    async def test_commit_digest_invalid(self) -> None:
        for wrong in (ABSENT, Digest.of(LAYER + b"x", "sha512")):
            writer = await self.registry.start_upload(NAME, "sha256")
            writer.write(LAYER)
            with self.assertRaises(DigestInvalid):
                await writer.commit(wrong)
            await self.assertUploadUnknown(writer.id)
            self.assertFalse(await self.holds(wrong))
            self.assertFalse(await self.holds(Digest.of(LAYER)))

    async def test_nothing_is_visible_before_commit(self) -> None:
        writer = await self.registry.start_upload(NAME, "sha256")
        writer.write(LARGE)
        await writer.suspend()
        self.assertFalse(await self.holds(Digest.of(LARGE)))
        await self.assertNothingVisible()

    async def test_suspend_and_resume(self) -> None:
        writer = await self.registry.start_upload(NAME, "sha256")
        for start, stop in ((0, 10), (10, 600_000), (600_000, 600_000), (600_000, len(LARGE))):
            writer.write(LARGE[start:stop])
            self.assertEqual(await writer.suspend(), stop)
            self.assertEqual(await self.registry.upload_status(NAME, writer.id), UploadStatus(writer.id, stop))
            id = writer.id
            writer = await self.registry.resume_upload(NAME, id)
            self.assertEqual((writer.id, writer.size), (id, stop))
        await writer.commit(Digest.of(LARGE))
        self.assertTrue(await self.holds(Digest.of(LARGE)))

    async def test_suspend_and_resume_sha512(self) -> None:
        writer = await self.registry.start_upload(NAME, "sha512")
        writer.write(LAYER)
        await writer.suspend()
        writer = await self.registry.resume_upload(NAME, writer.id)
        writer.write(LAYER)
        await writer.commit(Digest.of(LAYER * 2, "sha512"))

    async def test_revert(self) -> None:
        writer = await self.registry.start_upload(NAME, "sha256")
        writer.write(LAYER)
        await writer.suspend()
        writer = await self.registry.resume_upload(NAME, writer.id)
        writer.write(LARGE)
        await writer.revert(len(LAYER))
        self.assertEqual((await self.registry.upload_status(NAME, writer.id)).size, len(LAYER))
        writer = await self.registry.resume_upload(NAME, writer.id)
        self.assertEqual(writer.size, len(LAYER))
        await writer.commit(Digest.of(LAYER))

    async def test_revert_keeps_the_algorithm(self) -> None:
        writer = await self.registry.start_upload(NAME, "sha512")
        writer.write(LAYER + LARGE)
        await writer.revert(len(LAYER))
        writer = await self.registry.resume_upload(NAME, writer.id)
        await writer.commit(Digest.of(LAYER, "sha512"))

    async def test_cancel(self) -> None:
        for content in (b"", LAYER, LARGE):
            writer = await self.registry.start_upload(NAME, "sha256")
            writer.write(content)
            await writer.cancel()
            await self.assertUploadUnknown(writer.id)
            self.assertFalse(await self.holds(Digest.of(content)))

    async def test_cancel_a_resumed_session(self) -> None:
        writer = await self.registry.start_upload(NAME, "sha256")
        await writer.suspend()
        await (await self.registry.resume_upload(NAME, writer.id)).cancel()
        await self.assertUploadUnknown(writer.id)

    async def test_writer_is_a_consumer(self) -> None:
        writer = await self.registry.start_upload(NAME, "sha256")
        source = Source()
        writer.registerProducer(source, True)
        for start in range(0, len(LARGE), 100_000):
            writer.write(LARGE[start : start + 100_000])
        writer.unregisterProducer()
        await writer.commit(Digest.of(LARGE))
        # Whoever is asked to pause is asked to go on, unless it has gone.
        self.assertNotIn("stop", source.told)
        self.assertTrue(all(told == "pause" for told in source.told[::2]), source.told)

    async def assertUploadUnknown(self, id: str, name: RepositoryName = NAME) -> None:
        for call in (self.registry.upload_status, self.registry.resume_upload):
            # What is refused at once counts as well.
            with self.assertRaises(UploadUnknown):
                await maybeDeferred(call, name, id)

    async def test_resume_upload_upload_unknown(self) -> None:
        writer = await self.registry.start_upload(NAME, "sha256")
        await writer.suspend()
        uuid = "8e2ec51a-4ea1-4b0d-b2b5-3b6e9c3a9a52"
        for id in (uuid, "", ".", "..", "/", "a/b", f"../_uploads/{writer.id}", f"{writer.id}/", "\0", "x" * 300, "ä"):
            await self.assertUploadUnknown(id)
        await self.assertUploadUnknown(writer.id, OTHER)
        await self.assertUploadUnknown(writer.id, NOWHERE)
        self.assertEqual((await self.registry.upload_status(NAME, writer.id)).size, 0)

    async def test_resume_upload_range_invalid(self) -> None:
        writer = await self.registry.start_upload(NAME, "sha256")
        with self.assertRaises(RangeInvalid):
            await self.registry.resume_upload(NAME, writer.id)
        writer.write(LAYER)
        await writer.suspend()
        writer = await self.registry.resume_upload(NAME, writer.id)
        with self.assertRaises(RangeInvalid):
            await self.registry.resume_upload(NAME, writer.id)
        await writer.commit(Digest.of(LAYER))

    async def test_upload_status_while_somebody_writes(self) -> None:
        writer = await self.registry.start_upload(NAME, "sha256")
        self.assertEqual(await self.registry.upload_status(NAME, writer.id), UploadStatus(writer.id, 0))
        await writer.cancel()

    async def test_sessions_are_no_repository(self) -> None:
        writer = await self.registry.start_upload(NAME, "sha256")
        with self.assertRaises(NameUnknown):
            await self.registry.open_blob(NAME, ABSENT)
        await writer.cancel()

    # mount_blob

    async def test_mount_blob(self) -> None:
        digest = await self.push_blob(LAYER, OTHER)
        for source in (OTHER, None):
            name = RepositoryName(f"mounted/{'from' if source else 'anywhere'}")
            mounted = await self.registry.mount_blob(name, digest, source)
            self.assertEqual(mounted, Descriptor(OCTET_STREAM, digest, len(LAYER)))
            self.assertTrue(await self.holds(digest, name))

    async def test_mount_blob_stays_when_its_source_goes(self) -> None:
        digest = await self.push_blob(LAYER, OTHER)
        await self.registry.mount_blob(NAME, digest, OTHER)
        await self.origin.delete_blob(OTHER, digest)
        self.assertTrue(await self.holds(digest))

    async def test_mount_blob_blob_unknown(self) -> None:
        digest = await self.push_blob(LAYER, OTHER)
        for wanted, source in ((ABSENT, OTHER), (ABSENT, None), (digest, NOWHERE), (digest, NAME)):
            with self.assertRaises(BlobUnknown):
                await self.registry.mount_blob(NAME, wanted, source)
        self.assertFalse(await self.holds(digest))

    # put_manifest

    async def test_put_manifest_tells_the_subject(self) -> None:
        subject = await self.push_image()
        self.assertIsNone(await self.registry.put_manifest(NAME, IMAGE, [V1]))
        signature = image(CONFIG, subject=listed(subject))
        self.assertEqual(await self.registry.put_manifest(NAME, signature, []), subject.digest)

    async def test_put_manifest_without_a_tag(self) -> None:
        await self.push_image()
        await self.assertListed([NAME], NAME, [])

    async def test_put_manifest_moves_a_tag(self) -> None:
        old = await self.push_image(V1, V2)
        new = await self.push_image(V2, layer=b"new")
        self.assertEqual(await self.registry.get_manifest(NAME, V1), old)
        self.assertEqual(await self.registry.get_manifest(NAME, V2), new)
        self.assertEqual(await self.registry.get_manifest(NAME, old.digest), old)
        await self.assertListed([NAME], NAME, ["v1", "v2"])

    async def test_put_manifest_twice(self) -> None:
        for _ in range(2):
            await self.push_image(V1)
        self.assertEqual(await self.registry.get_manifest(NAME, V1), IMAGE)
        await self.assertListed([NAME], NAME, ["v1"])

    async def test_put_manifest_again_after_its_deletion(self) -> None:
        await self.push_image(V1)
        await self.origin.delete_manifest(NAME, IMAGE.digest)
        await self.push(IMAGE, V1)
        self.assertEqual(await self.registry.get_manifest(NAME, V1), IMAGE)

    async def test_put_manifest_manifest_invalid(self) -> None:
        await self.push_image()
        layers = [described(LAYER)]
        invalid = {
            "no JSON": Manifest(OCI_MANIFEST, Digest.of(b"{"), b"{"),
            "no object": manifest_of([]),
            "no config": manifest_of({"schemaVersion": 2, "layers": layers}),
            "no schema version": manifest_of({"config": described(CONFIG), "layers": layers}),
            "another type": manifest_of({"schemaVersion": 2, "mediaType": OCI_INDEX, "config": described(CONFIG)}),
            "schema 1": manifest_of({"schemaVersion": 1, "fsLayers": []}, DOCKER_SCHEMA1),
        }
        for what, manifest in invalid.items():
            with self.assertRaises(ManifestInvalid, msg=what):
                await self.registry.put_manifest(OTHER, manifest, [V1])
            with self.assertRaises(NameUnknown, msg=what):
                await self.registry.get_manifest(OTHER, V1)

    async def test_put_manifest_manifest_blob_unknown(self) -> None:
        present = await self.push_blob(CONFIG)
        await self.push_blob(LAYER, OTHER)
        child = await self.push(image(CONFIG))
        absent_child = image(CONFIG, b"absent")
        cases = [
            (image(CONFIG, LAYER, b"absent"), [Digest.of(LAYER), Digest.of(b"absent")]),
            (image(b"absent"), [Digest.of(b"absent")]),
            (index(listed(child), listed(absent_child)), [absent_child.digest]),
        ]
        for manifest, missing in cases:
            with self.assertRaises(ManifestBlobUnknown) as caught:
                await self.registry.put_manifest(NAME, manifest, [V1])
            self.assertEqual(sorted(caught.exception.missing), sorted(map(str, missing)))
            await self.assertManifestUnknown(V1)
            await self.assertManifestUnknown(manifest.digest)
        self.assertTrue(await self.holds(present))

    async def test_put_manifest_needs_no_subject(self) -> None:
        await self.push_blob(CONFIG)
        await self.registry.put_manifest(NAME, image(CONFIG, subject=described(b"absent", OCI_MANIFEST)), [V1])

    async def test_put_manifest_at_once_by_many(self) -> None:
        await self.push_blob(CONFIG)
        manifests = [image(CONFIG, annotations={"number": str(number)}) for number in range(8)]
        pushes: list[Deferred[Digest | None]] = [
            self.registry.put_manifest(NAME, manifest, [LATEST, Tag(f"v{number}")])
            for number, manifest in enumerate(manifests)
        ]
        for push in pushes:
            await push
        for number, manifest in enumerate(manifests):
            self.assertEqual(await self.registry.get_manifest(NAME, Tag(f"v{number}")), manifest)
        self.assertIn(await self.registry.get_manifest(NAME, LATEST), manifests)

    async def test_put_manifest_under_a_condition(self) -> None:
        old = await self.push_image(V1)
        told: list[Digest | None] = []
        condition = Condition(V1, lambda named: told.append(named) is None)
        new = image(CONFIG, annotations={"new": "yes"})
        for manifest in (new, new):
            await self.registry.put_manifest(NAME, manifest, [V1, V2], condition)
        by_digest = Condition(new.digest, condition.holds)
        await self.registry.put_manifest(NAME, new, [LATEST], by_digest)
        await self.registry.put_manifest(NAME, new, [LATEST], Condition(Tag("absent"), condition.holds))
        self.assertEqual(told, [old.digest, new.digest, new.digest, None])

    async def test_put_manifest_precondition_failed(self) -> None:
        old = await self.push_image(V1)
        new = image(CONFIG, annotations={"new": "yes"})
        for reference in (V1, V2, new.digest):
            with self.assertRaises(PreconditionFailed):
                await self.registry.put_manifest(NAME, new, [V1, V2], Condition(reference, lambda named: False))
        self.assertEqual(await self.registry.get_manifest(NAME, V1), old)
        await self.assertManifestUnknown(new.digest)
        await self.assertListed([NAME], NAME, ["v1"])

    async def test_put_manifest_precondition_failed_in_no_repository(self) -> None:
        empty = manifest_of({"schemaVersion": 2, "manifests": []}, OCI_INDEX)
        with self.assertRaises(PreconditionFailed):
            await self.registry.put_manifest(NOWHERE, empty, [V1], Condition(V1, lambda named: named is not None))
        self.assertEqual(await self.registry.repositories(None, ""), Page((), False))

    async def test_put_manifest_that_is_refused_leaves_no_repository(self) -> None:
        with self.assertRaises(ManifestBlobUnknown):
            await self.registry.put_manifest(NOWHERE, IMAGE, [V1])
        with self.assertRaises(NameUnknown):
            await self.registry.tags(NOWHERE, None, "")
        self.assertEqual(await self.registry.repositories(None, ""), Page((), False))

    async def test_put_manifest_that_is_refused_asks_no_condition(self) -> None:
        with self.assertRaises(ManifestBlobUnknown):
            await self.registry.put_manifest(NAME, IMAGE, [V1], Condition(V1, lambda named: False))

    async def test_put_manifest_by_many_of_whom_one_finds_nothing(self) -> None:
        await self.push_blob(CONFIG)
        manifests = [image(CONFIG, annotations={"number": str(number)}) for number in range(8)]
        condition = Condition(LATEST, lambda named: named is None)
        pushes: list[Deferred[Digest | None]] = [
            self.registry.put_manifest(NAME, manifest, [LATEST], condition) for manifest in manifests
        ]
        won = []
        for push, manifest in zip(pushes, manifests, strict=True):
            try:
                await push
                won.append(manifest)
            except PreconditionFailed:
                pass
        self.assertEqual([await self.registry.get_manifest(NAME, LATEST)], won)


class DeleterContract(_Contract):
    """What every IDeleter must do."""

    async def test_delete_blob(self) -> None:
        digest = await self.push_blob(LAYER)
        await self.push_blob(LAYER, OTHER)
        await self.push_blob(CONFIG)
        await self.registry.delete_blob(NAME, digest)
        with self.assertRaises(BlobUnknown):
            await self.registry.open_blob(NAME, digest)
        self.assertEqual([await self.holds(digest, OTHER), await self.holds(Digest.of(CONFIG))], [True, True])

    async def test_delete_blob_name_unknown(self) -> None:
        digest = await self.push_blob(LAYER)
        with self.assertRaises(NameUnknown):
            await self.registry.delete_blob(NOWHERE, digest)

    async def test_delete_blob_blob_unknown(self) -> None:
        digest = await self.push_blob(LAYER)
        elsewhere = await self.push_blob(CONFIG, OTHER)
        await self.push(image(CONFIG), name=OTHER)
        await self.push_blob(CONFIG)
        for wrong in (ABSENT, Digest.of(LARGE), elsewhere):
            if wrong == elsewhere:
                await self.registry.delete_blob(NAME, elsewhere)
            with self.assertRaises(BlobUnknown):
                await self.registry.delete_blob(NAME, wrong)
        self.assertTrue(await self.holds(digest))

    async def test_delete_manifest_takes_its_tags(self) -> None:
        old = await self.push_image(V1, V2, LATEST)
        new = await self.push_image(V2, layer=b"new")
        await self.registry.delete_manifest(NAME, old.digest)
        for reference in (old.digest, V1, LATEST):
            await self.assertManifestUnknown(reference)
        self.assertEqual(await self.registry.get_manifest(NAME, V2), new)
        await self.assertListed([NAME], NAME, ["v2"])

    async def test_delete_manifest_leaves_other_repositories(self) -> None:
        await self.push_image(V1)
        await self.push_image(V1, name=OTHER)
        await self.registry.delete_manifest(NAME, IMAGE.digest)
        self.assertEqual(await self.registry.get_manifest(OTHER, V1), IMAGE)

    async def test_delete_manifest_takes_a_referrer_off_the_list(self) -> None:
        subject = await self.push_image()
        signature = await self.push(image(CONFIG, subject=listed(subject)))
        await self.registry.delete_manifest(NAME, signature.digest)
        self.assertEqual(list((await self.registry.referrers(NAME, subject.digest)).referrers), [])

    async def test_delete_manifest_leaves_its_referrers(self) -> None:
        subject = await self.push_image()
        signature = await self.push(image(CONFIG, subject=listed(subject)))
        await self.registry.delete_manifest(NAME, subject.digest)
        referrers = (await self.registry.referrers(NAME, subject.digest)).referrers
        self.assertEqual([referrer.descriptor for referrer in referrers], [signature.descriptor])

    async def test_delete_manifest_name_unknown(self) -> None:
        await self.push_image()
        with self.assertRaises(NameUnknown):
            await self.registry.delete_manifest(NOWHERE, IMAGE.digest)

    async def test_delete_manifest_manifest_unknown(self) -> None:
        await self.push_image(V1)
        await self.push_image(name=OTHER, layer=b"other")
        for wrong in (ABSENT, Digest.of(LAYER), image(CONFIG, b"other").digest):
            with self.assertRaises(ManifestUnknown):
                await self.registry.delete_manifest(NAME, wrong)
        await self.registry.delete_manifest(NAME, IMAGE.digest)
        with self.assertRaises(ManifestUnknown):
            await self.registry.delete_manifest(NAME, IMAGE.digest)

    async def test_delete_under_a_condition(self) -> None:
        pushed = await self.push_image(V1, V2)
        told: list[Digest | None] = []
        never, always = (lambda named: told.append(named) is not None), (lambda named: told.append(named) is None)
        with self.assertRaises(PreconditionFailed):
            await self.registry.delete_tag(NAME, V1, Condition(V1, never))
        with self.assertRaises(PreconditionFailed):
            await self.registry.delete_manifest(NAME, pushed.digest, Condition(pushed.digest, never))
        await self.assertListed([NAME], NAME, ["v1", "v2"])
        await self.registry.delete_tag(NAME, V1, Condition(V1, always))
        await self.registry.delete_manifest(NAME, pushed.digest, Condition(pushed.digest, always))
        await self.assertManifestUnknown(pushed.digest)
        await self.assertListed([NAME], NAME, [])
        self.assertEqual(told, [pushed.digest] * 4)

    async def test_delete_of_what_is_not_there_asks_no_condition(self) -> None:
        await self.push_image()
        with self.assertRaises(ManifestUnknown):
            await self.registry.delete_tag(NAME, V1, Condition(V1, lambda named: False))
        with self.assertRaises(ManifestUnknown):
            await self.registry.delete_manifest(NAME, ABSENT, Condition(ABSENT, lambda named: False))

    async def test_delete_tag(self) -> None:
        await self.push_image(V1, V2)
        await self.registry.delete_tag(NAME, V1)
        await self.assertManifestUnknown(V1)
        for reference in (V2, IMAGE.digest):
            self.assertEqual(await self.registry.get_manifest(NAME, reference), IMAGE)
        await self.assertListed([NAME], NAME, ["v2"])

    async def test_delete_tag_the_last(self) -> None:
        await self.push_image(V1)
        await self.registry.delete_tag(NAME, V1)
        self.assertEqual(await self.registry.get_manifest(NAME, IMAGE.digest), IMAGE)
        await self.assertListed([NAME], NAME, [])

    async def test_delete_tag_name_unknown(self) -> None:
        await self.push_image(V1)
        with self.assertRaises(NameUnknown):
            await self.registry.delete_tag(NOWHERE, V1)

    async def test_delete_tag_manifest_unknown(self) -> None:
        await self.push_image(V1)
        await self.push_image(V2, name=OTHER)
        with self.assertRaises(ManifestUnknown):
            await self.registry.delete_tag(NAME, V2)
        await self.registry.delete_tag(NAME, V1)
        with self.assertRaises(ManifestUnknown):
            await self.registry.delete_tag(NAME, V1)


class RegistryContract(ReaderContract, WriterContract, DeleterContract, ListerContract):
    """What every IRegistry that is none of the filters must do."""


class FullRegistryContract(_Contract):
    """What every registry must do whose storage has room for ``give_room`` bytes, beside what is there already."""

    def give_room(self, size: int | None) -> None:
        raise NotImplementedError

    async def test_start_upload_storage_full(self) -> None:
        for room in range(20):
            self.give_room(room)
            with self.assertRaises(StorageFull):
                await self.registry.start_upload(NAME, "sha256")
        self.give_room(None)
        self.assertEqual(await self.registry.repositories(None, ""), Page((), False))
        await self.push_image(V1)

    async def test_suspend_storage_full(self) -> None:
        for size in (len(LAYER), 600_000, len(LARGE)):
            writer = await self.registry.start_upload(NAME, "sha256")
            writer.write(LARGE[:100])
            await writer.suspend()
            writer = await self.registry.resume_upload(NAME, writer.id)
            self.give_room(size - 1)
            writer.write((LARGE * 2)[100 : 100 + size])
            with self.assertRaises(StorageFull):
                await writer.suspend()
            self.assertGreaterEqual((await self.registry.upload_status(NAME, writer.id)).size, 100)
            await self.assertResumable(writer.id, (LARGE * 2)[: 100 + size])

    async def test_commit_storage_full(self) -> None:
        for size in (len(LAYER), 600_000, len(LARGE)):
            writer = await self.registry.start_upload(NAME, "sha256")
            self.give_room(size - 1)
            writer.write(LARGE[:size])
            with self.assertRaises(StorageFull):
                await writer.commit(Digest.of(LARGE[:size]))
            self.assertFalse(await self.holds(Digest.of(LARGE[:size])))
            await self.assertResumable(writer.id, LARGE[:size])

    async def test_commit_storage_full_at_its_last_step(self) -> None:
        writer = await self.registry.start_upload(NAME, "sha256")
        self.give_room(len(LAYER))
        writer.write(LAYER)
        with self.assertRaises(StorageFull):
            await writer.commit(Digest.of(LAYER))
        self.assertFalse(await self.holds(Digest.of(LAYER)))
        self.assertEqual((await self.registry.upload_status(NAME, writer.id)).size, len(LAYER))
        await self.assertResumable(writer.id, LAYER)

    async def test_writer_storage_full_stops_its_producer(self) -> None:
        writer = await self.registry.start_upload(NAME, "sha256")
        self.give_room(len(LARGE) // 2)
        source = Source()
        writer.registerProducer(source, True)
        for start in range(0, 2 * len(LARGE), 100_000):
            writer.write((LARGE * 2)[start : start + 100_000])
        with self.assertRaises(StorageFull):
            await writer.suspend()
        await self.assertResumable(writer.id, LARGE)

    async def assertResumable(self, id: str, content: bytes) -> None:
        """A session goes on from where it is when there is room again."""
        self.give_room(None)
        offset = (await self.registry.upload_status(NAME, id)).size
        self.assertLessEqual(offset, len(content))
        writer = await self.registry.resume_upload(NAME, id)
        self.assertEqual(writer.size, offset)
        writer.write(content[offset:])
        await writer.commit(Digest.of(content))
        reader = await self.open_blob(Digest.of(content))
        self.assertTrue(reader.read(0, len(content)) == content)
        await self.origin.delete_blob(NAME, Digest.of(content))

    async def test_mount_blob_storage_full(self) -> None:
        digest = await self.push_blob(LAYER, OTHER)
        self.give_room(0)
        with self.assertRaises(StorageFull):
            await self.registry.mount_blob(NAME, digest, OTHER)
        self.assertFalse(await self.holds(digest))
        self.give_room(None)
        await self.registry.mount_blob(NAME, digest, OTHER)

    async def test_put_manifest_storage_full(self) -> None:
        # Whatever step of the push it is that has no room.
        room = 0
        while not await self.fits(room):
            room += 23
        self.assertGreater(room, 5 * 71)

    async def fits(self, room: int) -> bool:
        """Push a manifest where there is so much room beside its parts and an older one; whether that is enough."""
        self.setUp()
        old = await self.push_image(V1)
        document = {"schemaVersion": 2, "config": described(CONFIG, OCI_CONFIG), "subject": listed(old)}
        # Its type has to be stored too: the bytes do not tell it.
        new = manifest_of(document, DOCKER_MANIFEST)
        self.give_room(room)
        try:
            await self.registry.put_manifest(NAME, new, [V1, V2])
        except StorageFull:
            await self.assertNotPushed(new, old)
            self.give_room(None)
            await self.registry.put_manifest(NAME, new, [V1, V2])
            fitted = False
        else:
            fitted = True
        self.assertEqual(await self.registry.get_manifest(NAME, V1), new)
        self.assertEqual(await self.registry.get_manifest(NAME, V2), new)
        return fitted

    async def assertNotPushed(self, new: Manifest, old: Manifest) -> None:
        """Of a push without room no half can be seen: where a tag or digest names the new manifest, it is whole."""
        self.assertEqual(await self.registry.get_manifest(NAME, old.digest), old)
        tags = (await self.registry.tags(NAME, None, "")).names
        self.assertIn(tags, ((V1,), (V1, V2)))
        for tag in tags:
            self.assertIn(await self.registry.get_manifest(NAME, Tag(tag)), (old, new))
        try:
            self.assertEqual(await self.registry.get_manifest(NAME, new.digest), new)
        except ManifestUnknown:
            self.assertEqual(await self.registry.get_manifest(NAME, V1), old)
            self.assertEqual((tags, list((await self.registry.referrers(NAME, old.digest)).referrers)), ((V1,), []))

    async def test_reads_go_on(self) -> None:
        await self.push_image(V1)
        self.give_room(0)
        self.assertEqual(await self.registry.get_manifest(NAME, V1), IMAGE)
        reader = await self.open_blob(Digest.of(LAYER))
        self.assertEqual(reader.read(0, len(LAYER)), LAYER)
        await self.assertListed([NAME], NAME, ["v1"])

    async def test_deletions_make_room(self) -> None:
        await self.push_image(V1)
        self.give_room(0)
        await self.registry.delete_manifest(NAME, IMAGE.digest)
        await self.registry.delete_blob(NAME, Digest.of(LAYER))
        await self.assertManifestUnknown(V1)
