"""What stays and what goes of private repositories."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Collection
from uuid import uuid4

import attrs
import pytest

from registryd.cache.mirrored import Mirrored
from registryd.config import Validation
from registryd.model import DOCKER_SCHEMA1_SIGNED, OCI_INDEX, Manifest
from registryd.reference import Digest, RepositoryName, Tag
from registryd.storage import layout
from registryd.storage.interfaces import IContentWriter
from registryd.storage.memory import MemoryDriver
from registryd.storage.tree import Tree
from registryd_gc.console import summary
from registryd_gc.position import PLACE
from registryd_gc.trash import LOCK
from tests.values import NAME, local_registry, put_blob

from .trees import APP, DAY, HUB, NEW, OLD, OTHER, Store, described, image, listed, manifest_of

ORAS = "application/vnd.cncf.oras.artifact.manifest.v1+json"
UNTAGGED = pytest.mark.parametrize("untagged_go", [False, True], ids=["kept", "delete-untagged"])


@UNTAGGED
def test_a_tagged_image_stays(store: Store, untagged_go: bool) -> None:
    kept = store.image("app", tags=["1"])
    before = store.files()
    report = store.collect(untagged_go=untagged_go)
    assert store.is_whole("app", kept)
    assert {path: file for path, file in store.files().items() if "_trash" not in path} == before
    assert (report.manifests.kept, report.tags.kept, report.blobs.kept, report.repositories.kept) == (1, 1, 3, 1)
    assert report.blobs.kept_bytes == sum(len(file[0]) for path, file in before.items() if path.endswith("/data"))


def test_an_untagged_image_stays_unless_untagged_go(store: Store) -> None:
    image = store.image("app")
    store.collect()
    assert store.is_whole("app", image)
    report = store.collect(untagged_go=True)
    assert not store.is_whole("app", image)
    assert (report.manifests.removed, report.blobs.removed, report.links.removed, report.repositories.removed) == (
        *(1, 3, 2, 1),
    )
    assert (store.folders(), store.folders(layout.BLOBS)) == (set(), {f"{layout.BLOBS}/sha256"})
    assert list(store.files()) == [LOCK]


def test_a_blob_that_nothing_references_goes(store: Store) -> None:
    kept = store.image("app", tags=["1"])
    loose = store.layer(b"loose")
    stray = store.blob(b"in no repository")
    report = store.collect()
    assert (report.blobs.removed, report.blobs.removed_bytes, report.links.removed) == (2, 21, 1)
    assert not store.has_blob(b"loose") and not store.has(layout.layer_link(APP, loose))
    assert not store.has_blob(b"in no repository")
    assert store.is_whole("app", kept)
    assert store.heard.lines == [
        f"{APP}: layer link {loose}",
        *sorted([f"blob {loose} 5 bytes", f"blob {stray} 16 bytes"], key=lambda line: line.split(":")[1]),
    ]


def test_what_is_young_stays_and_is_counted(store: Store) -> None:
    store.image("app", tags=["1"])
    store.layer(b"young", age=DAY - 60)
    old = store.layer(b"old", age=DAY + 60)
    report = store.collect(untagged_go=True)
    assert store.has_blob(b"young") and store.has(layout.layer_link(APP, Digest.of(b"young")))
    assert not store.has_blob(b"old") and not store.has(layout.layer_link(APP, old))
    assert (report.blobs.young, report.blobs.young_bytes, report.blobs.removed) == (1, 5, 1)


def test_a_young_link_keeps_an_old_blob(store: Store) -> None:
    """An upload that took long ends with old bytes under a new link."""
    digest = store.blob(b"slow")
    store.link(layout.layer_link(APP, digest), digest, NEW)
    store.collect()
    assert store.has_blob(b"slow")


def test_a_young_untagged_manifest_stays_with_all_its_parts(store: Store) -> None:
    child = store.image("child")
    signature = store.signature(child)
    young = store.index(child)
    store.age(layout.revision_link(APP, young.digest), NEW)
    store.collect(untagged_go=True)
    assert store.has_manifest(young) and store.is_whole("child", child) and store.is_whole("signature", signature)


def test_a_manifest_whose_bytes_are_young_stays(store: Store) -> None:
    young = store.image("app")
    store.age(layout.blob_data(young.digest), NEW)
    store.collect(untagged_go=True)
    assert store.is_whole("app", young)


def test_a_dry_run_leaves_what_is_young_too(store: Store) -> None:
    """It cannot find it renewed on the way."""
    store.layer(b"young", age=NEW)
    store.blob(b"without a link", age=NEW)
    store.image("young", age=NEW)
    old, older = store.image("old", tags=["1"]), store.image("older")
    store.tag("1", older, pushed=NEW)
    store.tag("1", old, used=NEW)
    store.image("signature", tags=[f"sha256-{'0' * 64}.sig"], age=NEW)
    store.link(layout.referrer_link(APP, old.digest, Digest.of(b"to come")), Digest.of(b"to come"), NEW)
    report = store.collect(dry_run=True, untagged_go=True)
    assert (report.tags.removed, report.history.removed, report.referrers.removed) == (0, 0, 0)
    assert store.heard.lines == [
        f"{APP}: manifest {older.digest}",
        *(line for line in store.heard.lines if "layer link" in line or line.startswith("blob ")),
    ]
    assert (report.links.removed, report.blobs.removed, report.blobs.young) == (2, 3, 2)


def test_offline_takes_what_is_new_too(store: Store) -> None:
    store.image("app", tags=["1"])
    store.layer(b"new", age=1)
    assert store.collect(0.0, offline=True).blobs.removed == 1


def everything(store: Store) -> dict[str, Manifest]:
    """A signed multi-arch image with everything that people hang on one."""
    arm, amd = store.image("arm"), store.image("amd")
    both = store.index(arm, amd)
    nested = store.index(both, tags=["v1"])
    found = {"arm": arm, "amd": amd, "both": both, "nested": nested}
    found["signed"] = store.signature(nested, "signed")
    found["sbom"] = store.signature(arm, "sbom")
    found["sbomsigned"] = store.signature(found["sbom"], "sbomsigned")
    for suffix in ("", ".sig", ".att", ".sbom"):
        what = f"cosign{suffix}"
        found[what] = store.image(what, tags=[f"sha256-{amd.digest.hex}{suffix}"])
    return found


FLAGS = [
    {"dry_run": dry, "untagged_go": untagged, "offline": offline, "expired_only": expired, "globs": globs}
    for dry, untagged, offline, expired, globs in itertools.product(*[[False, True]] * 4, [(), ("team/*",), ("none",)])
]


@pytest.mark.parametrize("flags", FLAGS, ids=lambda flags: ",".join(f"{key}" for key in flags if flags[key]) or "none")
@pytest.mark.parametrize("retained", [False, True], ids=["no-rules", "rules"])
def test_a_signed_multi_arch_image_survives(store: Store, flags: dict[str, bool], retained: bool) -> None:
    kept = everything(store)
    if retained:
        store.retain(keep_newest=1, delete_older=1.0)
        store.config = attrs.evolve(
            store.config, collection=attrs.evolve(store.config.collection, trash=DAY, untagged="delete")
        )
    report = store.collect(0.0 if flags["offline"] else DAY, **flags)
    for what, manifest in kept.items():
        assert store.has_manifest(manifest), what
        if what not in ("both", "nested"):
            assert store.is_whole(what, manifest)
    assert (report.damage, report.manifests.kept, report.tags.kept) == ([], 11, 5)


@pytest.mark.parametrize("another", [False, True], ids=["last-tag", "another-tag"])
def test_all_of_it_goes_with_the_last_tag(store: Store, another: bool) -> None:
    kept = everything(store)
    if another:
        store.tag("also", kept["both"])
    store.driver.delete(layout.tag(APP, Tag("v1")))
    report = store.collect(untagged_go=True)
    gone = {what for what, manifest in kept.items() if not store.has_manifest(manifest)}
    assert gone == ({"nested", "signed"} if another else set(kept))
    assert (report.tags.kept, report.repositories.kept) == ((5, 1) if another else (0, 0))
    assert report.damage == []


def test_cosign_tags_stay_where_untagged_do(store: Store) -> None:
    gone = image(b"no config", b"no layer")
    signature = store.image("signature", tags=[f"sha256-{gone.digest.hex}.sig"])
    assert store.collect().tags.kept == 1
    assert store.collect(untagged_go=True).tags.removed == 1
    assert not store.is_whole("signature", signature)


def test_a_young_cosign_tag_stays(store: Store) -> None:
    tag = f"sha256-{'0' * 64}.sig"
    signature = store.image("signature")
    store.tag(tag, signature, used=NEW)
    store.collect(untagged_go=True)
    assert store.is_whole("signature", signature) and store.has_tag(tag)


def test_a_tag_that_spells_what_it_names_is_a_tag(store: Store) -> None:
    kept = store.image("app")
    store.tag(f"sha256-{kept.digest.hex}", kept)
    store.collect(untagged_go=True)
    assert store.is_whole("app", kept)


def test_what_only_its_age_keeps_is_told(store: Store) -> None:
    store.index(store.image("young", age=NEW), age=NEW)
    store.image("young, but tagged", tags=["1"], age=NEW)
    for dry_run in (True, False):
        report = store.collect(untagged_go=True, dry_run=dry_run)
        assert (report.manifests.kept, report.manifests.young, report.blobs.young) == (3, 2, 0)
    assert "              2 of the kept are not needed, but too young to go" in summary(report).splitlines()
    assert store.collect().manifests.young == 0


def test_a_referrer_whose_subject_is_gone_is_untagged(store: Store) -> None:
    store.image("app", tags=["1"])
    gone = image(b"x")
    signature = store.signature(gone)
    store.collect()
    assert store.is_whole("signature", signature)
    report = store.collect(untagged_go=True)
    assert not store.is_whole("signature", signature)
    assert report.referrers.removed == 1
    assert not store.has(f"{layout.manifests(APP)}/referrers/sha256")


@pytest.mark.parametrize("referrer_first", [False, True])
def test_a_referrer_that_names_its_subject_as_a_part_goes_with_it(store: Store, referrer_first: bool) -> None:
    """In a manifest of an unknown type, as ORAS had, the subject is a reference like any other."""
    subject = Store(MemoryDriver()).image("app")
    document = {"mediaType": ORAS, "blobs": [described(b"signed")], "subject": listed(subject)}
    store.layer(b"signed")
    for step in sorted(("referrer", "subject"), reverse=not referrer_first):
        if step == "referrer":
            store.manifest(manifest_of(document, ORAS))
        else:
            store.image("app")
    dry, real = (store.collect(untagged_go=True, dry_run=dry_run) for dry_run in (True, False))
    assert (dry.manifests, dry.blobs, dry.repositories) == (real.manifests, real.blobs, real.repositories)
    assert (real.manifests.removed, real.blobs.kept, real.repositories.kept) == (2, 0, 0)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_signatures_in_a_repository_of_their_own_stay_while_the_image_does(store: Store, algorithm: str) -> None:
    """As cosign keeps them where COSIGN_REPOSITORY says so."""
    signed = store.image("app", tags=["1"])
    if algorithm == "sha512":
        signed = store.manifest(Manifest(signed.media_type, Digest.of(signed.content, algorithm), signed.content))
        store.tag("1", signed)
    tag = f"{algorithm}-{signed.digest.hex[:64]}.sig"
    signature = store.image("signature", OTHER, tags=[tag])
    store.collect(untagged_go=True)
    assert store.is_whole("signature", signature, OTHER) and store.has_tag(tag, OTHER)
    store.driver.delete(layout.tag(APP, Tag("1")))
    for _ in range(2):
        store.collect(untagged_go=True)
    assert not store.has_manifest(signature, OTHER) and list(store.files()) == [LOCK]


def test_a_signature_that_is_not_well_formed_stays_with_its_subject(store: Store) -> None:
    """Only another registry takes such; it is no reason to lose it."""
    subject = store.image("app", tags=["1"])
    without_size = {key: value for key, value in listed(subject).items() if key != "size"}
    for what, more in {
        "size": {"subject": without_size},
        "annotation": {"subject": listed(subject), "annotations": {"count": 1}},
    }.items():
        signature = store.image(what, **more)
        store.collect(untagged_go=True)
        assert store.is_whole(what, signature)


def test_a_digest_as_a_key_is_a_reference(store: Store) -> None:
    layer = store.layer(b"named by a key")
    store.manifest(manifest_of({"mediaType": "a/b", "layers": {str(layer): {"size": 3}}}, "a/b"), tags=["1"])
    store.collect()
    assert store.has_blob(b"named by a key")


def test_links_by_other_digests_keep_what_they_name(store: Store) -> None:
    """Distribution takes SHA-384 as well; its bytes are under SHA-256."""
    stored = store.blob(b"pushed as sha384")
    path = f"{layout.layers(APP)}/sha384/{'0' * 96}/link"
    store.link(path, stored)
    report = store.collect(untagged_go=True)
    assert store.has_blob(b"pushed as sha384") and store.has(path)
    assert (report.repositories.kept, report.damage) == (1, [])


def test_entries_that_go_are_named(store: Store) -> None:
    store.image("app", tags=["1"])
    gone = Digest.of(b"gone")
    store.link(layout.tag_history_link(APP, Tag("1"), gone), gone)
    store.link(layout.referrer_link(APP, gone, gone), gone)
    store.collect()
    assert store.heard.lines == [f"{APP}: entry of the history of 1: {gone}", f"{APP}: entry of referrers: {gone}"]


def test_a_link_whose_folder_is_empty_is_missing(store: Store) -> None:
    store.image("app", tags=["1"])
    layer = Digest.of(b"layer of app")
    store.driver.delete(layout.layer_link(APP, layer))
    store.driver.delete(layout.blob_data(layer))
    store.driver.make_folder(layout.layer_link(APP, layer).rpartition("/")[0])
    dry, real = (store.collect(dry_run=dry_run) for dry_run in (True, False))
    assert [damage.kind for damage in dry.damage] == [damage.kind for damage in real.damage] == ["parts"]


def test_a_tagged_referrer_stays_without_its_subject(store: Store) -> None:
    gone = store.image("gone")
    signature = store.signature(gone)
    store.tag("keep", signature)
    store.collect(untagged_go=True)
    assert store.is_whole("signature", signature) and not store.has_manifest(gone)


def test_what_one_repository_needs_another_may_not(store: Store) -> None:
    store.image("shared", tags=["1"])
    other = store.image("shared", OTHER)
    report = store.collect(untagged_go=True)
    assert store.is_whole("shared", other)
    assert not store.has(layout.repository(OTHER))
    assert (report.blobs.removed, report.links.removed, report.repositories.removed) == (0, 2, 1)


def test_layers_of_an_index(store: Store) -> None:
    """BuildKit's cache is an index of layers."""
    store.layer(b"cached")
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [described(b"cached")]}
    store.manifest(manifest_of(document, OCI_INDEX), tags=["cache"])
    assert store.collect(untagged_go=True).damage == []
    assert store.has_blob(b"cached") and store.has(layout.layer_link(APP, Digest.of(b"cached")))


@pytest.mark.parametrize("wrong", ["unknown type", "refused", "no type"])
def test_every_digest_in_what_is_not_understood_counts(store: Store, wrong: str) -> None:
    child = store.image("child")
    blobs = [b"one", b"two"]
    for blob in blobs:
        store.layer(blob)
    document = {
        "schemaVersion": 2,
        "things": {"a": [str(Digest.of(blobs[0]))], "text": f"and {Digest.of(blobs[1])}."},
        "child": str(child.digest),
    }
    if wrong == "unknown type":
        document["mediaType"] = "application/vnd.example.thing+json"
    elif wrong == "refused":
        document["layers"] = 1
    manifest = manifest_of(document, "application/vnd.example.thing+json")
    store.manifest(manifest, tags=["1"])
    if wrong == "no type":
        store.put(layout.revision_media_type(APP, manifest.digest), b"application/vnd.example.thing+json")
    assert store.collect(untagged_go=True).damage == []
    assert all(map(store.has_blob, blobs)) and store.is_whole("child", child)


def test_digests_in_annotations_do_not_count(store: Store) -> None:
    base = store.layer(b"base")
    store.image("app", tags=["1"], annotations={"org.opencontainers.image.base.digest": str(base)})
    assert store.collect().blobs.removed == 1


def test_schema_1(store: Store) -> None:
    layer = store.layer(b"layer")
    document = {
        "schemaVersion": 1,
        "name": "app",
        "fsLayers": [{"blobSum": str(layer)}],
        "signatures": [{"header": {}}],
    }
    manifest = store.manifest(manifest_of(document, DOCKER_SCHEMA1_SIGNED), tags=["1"])
    signature = store.blob(b"{}")
    folder = layout.revision_link(APP, manifest.digest).rpartition("/")[0]
    store.link(f"{folder}/signatures/sha256/{signature.hex}/link", signature)
    assert store.collect(untagged_go=True).damage == []
    assert store.has_blob(b"layer") and store.has_blob(b"{}")
    store.driver.delete(layout.tag(APP, Tag("1")))
    store.collect(untagged_go=True)
    assert not store.has(layout.repository(APP)) and not store.has_blob(b"{}")


def test_aliases_of_sha512(store: Store) -> None:
    """Distribution keeps what was pushed as sha512 under sha256, with a link under each."""
    stored = store.layer(b"layer")
    alias = Digest.of(b"layer", "sha512")
    store.link(layout.layer_link(APP, alias), stored)
    config = store.layer(b"config")
    document = {
        **json.loads(image(b"config").content),
        "layers": [{"mediaType": "application/x-layer", "digest": str(alias), "size": 5}],
    }
    store.manifest(manifest_of(document), tags=["1"])
    assert store.collect(untagged_go=True).damage == []
    assert store.has_blob(b"layer")
    assert [store.has(layout.layer_link(APP, digest)) for digest in (stored, alias, config)] == [True] * 3


@pytest.mark.parametrize(("age", "globs"), [(0.0, []), (OLD, ["other"])], ids=["young", "of a repository left alone"])
def test_an_alias_that_stays_keeps_its_blob(store: Store, age: float, globs: list[str]) -> None:
    stored = store.blob(b"layer")
    alias = layout.layer_link(APP, Digest.of(b"layer", "sha512"))
    store.link(alias, stored, age)
    store.image("kept", tags=["1"])
    assert store.collect(globs=globs).damage == []
    assert store.has(alias) and store.has_blob(b"layer")


def test_sha512(store: Store) -> None:
    kept, gone = b"kept", b"gone"
    for content in (kept, gone):
        digest = store.blob(content, algorithm="sha512")
        store.link(layout.layer_link(APP, digest), digest)
    config = store.layer(b"config")
    document = {
        "schemaVersion": 2,
        "config": {"mediaType": "application/x", "digest": str(config), "size": 6},
        "layers": [{"mediaType": "application/x", "digest": str(Digest.of(kept, "sha512")), "size": 4}],
    }
    manifest = store.manifest(manifest_of(document, algorithm="sha512"), tags=["1"])
    signature = store.image("signature", tags=[f"sha512-{manifest.digest.hex[:64]}.sig"])
    report = store.collect(untagged_go=True)
    assert report.damage == []
    assert (store.has(layout.blob_data(Digest.of(kept, "sha512"))), report.blobs.removed, report.links.removed) == (
        *(True, 1, 1),
    )
    assert store.has(layout.revision_link(APP, manifest.digest)) and store.is_whole("signature", signature)


def test_history_goes_with_its_manifests(store: Store) -> None:
    first, second = store.image("first"), store.image("second")
    for manifest in (first, second):
        store.tag("1", manifest)
    assert store.collect().history.removed == 0
    assert store.collect(untagged_go=True).history.removed == 1
    assert store.has(layout.tag_history_link(APP, Tag("1"), second.digest))
    assert not store.has(layout.tag_history_link(APP, Tag("1"), first.digest))


def test_what_is_left_of_a_deleted_tag_goes(store: Store) -> None:
    """Whether or not its manifest stays; a daemon may be killed between the two steps of a deletion."""
    store.image("app", tags=["1", "2"])
    store.driver.delete(layout.tag_link(APP, Tag("2")))
    other = store.image("other", tags=["3"])
    store.driver.delete(layout.tag_link(APP, Tag("3")))
    store.driver.delete(layout.revision_link(APP, other.digest))
    assert store.collect().history.removed == 2
    assert [entry.name for entry in store.driver.entries(layout.tags(APP))] == ["1"] and store.has_tag("1")


def test_what_is_young_of_a_tag_stays(store: Store) -> None:
    """A push writes an entry of the history before it lets the tag name anything."""
    kept = store.image("app", tags=["1", "2"])
    store.driver.delete(layout.tag_link(APP, Tag("2")))
    entry = layout.tag_history_link(APP, Tag("2"), kept.digest)
    store.link(entry, kept.digest, 0)
    assert store.collect().history.removed == 0
    assert store.has(entry)


def test_referrers_that_are_not_listed_are_written(store: Store) -> None:
    """Distribution does not list them."""
    subject = store.image("app", tags=["1"])
    signature = store.image("signature", subject=listed(subject))
    entry = layout.referrer_link(APP, subject.digest, signature.digest)
    assert store.collect(dry_run=True).referrers.written == 1
    assert not store.has(entry)
    assert store.collect().referrers.written == 1
    assert store.driver.get_content(entry) == str(signature.digest).encode()
    assert store.collect().referrers.written == 0


def test_layers_outlive_manifests(store: Store) -> None:
    """Distribution 2.8 collects the manifests of a repository without its folder of layers."""
    store.manifest(manifest_of({"schemaVersion": 2, "manifests": []}, OCI_INDEX), tags=["1"])
    store.collect(untagged_go=True)
    assert store.has(layout.layers(APP))


def test_uploads_go_by_their_own_age(store: Store) -> None:
    store.image("app", tags=["1"])
    old, recent = store.upload("old", b"12345", age=8 * DAY), store.upload("recent", age=6 * DAY)
    locked = store.upload("locked", age=8 * DAY)
    content = store.driver.writer(f"{locked}/data", False)
    report = store.collect(untagged_go=True)
    content.close()
    assert [store.has(path) for path in (old, recent, locked)] == [False, True, True]
    assert (report.uploads.removed, report.uploads.removed_bytes) == (1, 5 + 20)
    store.config = attrs.evolve(store.config, storage=attrs.evolve(store.config.storage, purging=None))
    assert store.collect(untagged_go=True).uploads.removed == 0


def test_a_repository_that_is_but_an_old_upload_goes(store: Store) -> None:
    store.upload("old", age=8 * DAY)
    assert store.collect().repositories.removed == 1
    assert store.folders() == set()


def test_a_repository_of_which_an_upload_is_left_holds_nothing_else(store: Store) -> None:
    store.image("gone")
    upload = store.upload("recent", age=6 * DAY)
    dry, real = (store.collect(untagged_go=True, dry_run=dry_run) for dry_run in (True, False))
    assert dry.repositories.removed == real.repositories.removed == 0
    assert dry.repositories.kept == real.repositories.kept == 1
    team = layout.repository(APP).rpartition("/")[0]
    assert store.folders() == {team, layout.repository(APP), layout.uploads(APP), upload}


def test_what_goes_leaves_no_folder_though_somebody_died_in_it(store: Store) -> None:
    gone = store.image("gone")
    store.upload("recent", age=6 * DAY)
    name = "link.01234567-89ab-cdef-0123-456789abcdef.tmp"
    links = [layout.layer_link(APP, Digest.of(b"layer of gone")), layout.revision_link(APP, gone.digest)]
    for link in links:
        store.put(f"{link.rpartition('/')[0]}/{name}", b"")
    store.image("kept", tags=["1"])
    store.collect(untagged_go=True)
    assert not any(store.has(link.rpartition("/")[0]) for link in links)


def written(store: Store) -> list[str]:
    """Paths of content that writers may have died of, in a store where it is needed, or never was finished."""
    kept = store.image("app", tags=["1"])
    store.signature(kept)
    store.put(layout.upload_data(OTHER, "x"), b"", NEW)
    return [
        layout.blob_data(kept.digest),
        layout.blob_data(Digest.of(b"layer of app")),
        layout.revision_link(APP, kept.digest),
        layout.tag_link(APP, Tag("1")),
        layout.tag_history_link(APP, Tag("1"), kept.digest),
        layout.layer_link(APP, Digest.of(b"layer of app")),
        layout.blob_data(Digest.of(b"never finished")),
        layout.layer_link(APP, Digest.of(b"never finished")),
        layout.revision_link(APP, Digest.of(b"never finished")),
        layout.referrer_link(APP, kept.digest, Digest.of(b"never finished")),
    ]


def leave(store: Store, places: Collection[str]) -> Callable[[], bool]:
    """Leave an old temporary file and a new one beside each place; what tells whether the new ones alone are left."""
    uuid = "01234567-89ab-cdef-0123-456789abcde"
    left = {age: {f"{place}.{uuid}{number}.tmp" for place in places} for number, age in enumerate((OLD, NEW))}
    for age, paths in left.items():
        for path in paths:
            store.put(path, b"123", age)
    return lambda: {path for path in store.files() if path.endswith(".tmp")} == left[NEW]


def test_temporary_files_go(store: Store) -> None:
    """Those that registryd leaves: beside the folders of what was written into one."""
    content = written(store)
    places = {path.rpartition("/")[0] for path in content}
    places |= {layout.mirror(RepositoryName("never/marked")), LOCK, PLACE, f"{layout.ROOT}/_writable"}
    new_alone_are_left = leave(store, places)
    dry, real = (store.collect(dry_run=dry_run).temporary for dry_run in (True, False))
    assert (real.removed, real.removed_bytes) == (len(places), 3 * len(places))
    assert dry == real
    assert new_alone_are_left()


class DyingDriver(MemoryDriver):
    """Leaves with all that is put what whoever dies meanwhile does."""

    def put_content(self, path: str, content: bytes, above: bool = False) -> None:
        super().put_content(path, content)
        super().put_content(f"{path.rpartition('/')[0] if above else path}.{uuid4()}.tmp", content)


def test_a_plain_run_finds_all_that_a_registry_leaves() -> None:
    store = Store(DyingDriver())
    registry, mirrored = local_registry(store.driver), Mirrored(Tree(store.driver), "docker.io")
    put_blob(registry, b"config")
    subject = image(b"config")
    for manifest in (subject, image(b"config", subject=listed(subject)), manifest_of({"a": 1}, "application/custom")):
        registry.put_manifest(NAME, manifest, [Tag("1")])
    mirrored.put_manifest(HUB, subject)
    mirrored.tag(HUB, Tag("1"), subject.digest)
    mirrored.put_told(HUB, Tag("1"), subject.descriptor)
    mirrored.put_names(HUB, layout.upstream_tags(HUB), ["1"])
    mirrored.put_referrers(HUB, layout.upstream_referrers(HUB, subject.digest), [])
    left = [path for path in store.files() if path.endswith(".tmp")]
    assert len(left) > 20
    for path in left:
        store.age(path, OLD)
    store.collect()
    assert [path for path in store.files() if path.endswith(".tmp")] == []


def test_temporary_files_in_folders_of_what_stays_go_offline(store: Store) -> None:
    leave(store, written(store))
    before = {path for path in store.files() if path.startswith(layout.REPOSITORIES)}
    store.collect(globs=["nothing/**"])
    assert {path for path in store.files() if path.startswith(layout.REPOSITORIES)} == before
    dry, real = (store.collect(0.0, offline=True, dry_run=dry_run).temporary for dry_run in (True, False))
    assert dry == real
    assert [path for path in store.files() if path.endswith(".tmp")] == []


def test_temporary_files_beside_what_goes_go_with_it(store: Store) -> None:
    store.image("app", tags=["1"])
    loose = store.layer(b"loose")
    beside_what_goes = [layout.layer_link(APP, loose), layout.blob_data(loose)]
    leave(store, [*beside_what_goes, layout.layer_link(APP, Digest.of(b"layer of app"))])
    dry, real = (store.collect(dry_run=dry_run).temporary.removed for dry_run in (True, False))
    assert (dry, real) == (0, len(beside_what_goes))


def test_only_what_a_glob_matches_goes(store: Store) -> None:
    here, there = store.image("here"), store.image("there", OTHER)
    store.layer(b"loose", OTHER)
    report = store.collect(untagged_go=True, globs=["team/*"])
    assert not store.is_whole("here", here) and store.is_whole("there", there, OTHER)
    assert store.has(layout.layer_link(OTHER, Digest.of(b"loose")))
    assert (report.manifests.kept, report.manifests.removed) == (1, 1)


def test_names_that_no_client_could_send(store: Store) -> None:
    """Their blobs are needed all the same."""
    for name in ("Upper", "localhost:5000/x", ".dot"):
        kept = store.image("app", name, tags=["1"])  # type: ignore[arg-type]
        assert store.collect(untagged_go=True).repositories.kept >= 1
        assert store.is_whole("app", kept, name)  # type: ignore[arg-type]


def test_a_dry_run_changes_nothing_and_tells_the_same(store: Store) -> None:
    everything(store)
    store.driver.delete(layout.tag(APP, Tag("v1")))
    store.image("kept", OTHER, tags=["1"])
    store.layer(b"loose", OTHER)
    store.upload("old")
    store.put(f"{layout.mirror(OTHER)}.01234567-89ab-cdef-0123-456789abcdef.tmp", b"1")
    before = store.files()
    dry = store.collect(dry_run=True, untagged_go=True).document()
    told = store.heard.lines
    assert store.files() == before
    real = store.collect(untagged_go=True).document()
    assert told == store.heard.lines
    for name in ("run", "dry_run", "cutoff", "seconds"):
        del dry[name], real[name]
    assert dry == real


def test_steps_are_all_told(store: Store) -> None:
    store.image("app", tags=["1"])
    for options in ({}, {"expired_only": True}):
        store.collect(**options)
        assert store.heard.steps == store.heard.done > 0


def test_an_empty_store(store: Store) -> None:
    store.driver.make_folder("/docker")
    report = store.collect()
    assert (report.blobs.kept, report.repositories.kept, report.damage) == (0, 0, [])


def test_parts_that_may_be_missing(store: Store) -> None:
    store.layer(b"config")
    foreign = {**described(b"foreign"), "urls": ["https://example.com/layer"]}
    document = {**json.loads(image(b"config").content), "layers": [foreign]}
    whole = store.manifest(manifest_of(document), tags=["1"])
    sparse = image(b"elsewhere")
    store.index(whole, sparse, tags=["2"])
    validation = Validation(disabled=False, urls=None, platforms="none", platform_list=())
    store.config = attrs.evolve(store.config, validation=validation)
    assert store.collect().damage == []
    store.config = attrs.evolve(store.config, validation=attrs.evolve(validation, platforms="all"))
    (damage,) = store.collect().damage
    assert (damage.kind, str(sparse.digest) in damage.detail) == ("parts", True)


def test_what_another_repository_holds_is_not_told_to_be_young(store: Store) -> None:
    store.layer(b"held", OTHER)
    store.layer(b"young", age=NEW)
    report = store.collect(globs=["team/*"])
    assert (report.blobs.kept, report.blobs.young, report.blobs.removed) == (2, 1, 0)


def test_offline_takes_what_has_a_time_to_come(store: Store) -> None:
    store.image("app", tags=["1"])
    store.layer(b"to come", age=-DAY)
    report = store.collect(0.0, offline=True)
    assert (report.blobs.removed, report.links.removed, report.blobs.young) == (1, 1, 0)
    assert report.cutoff < store.now + DAY


def test_folders_that_hold_nothing_go(store: Store) -> None:
    store.image("app", tags=["1"])
    for folder in ("team/empty/deep", "empty/deep"):
        store.driver.make_folder(f"{layout.REPOSITORIES}/{folder}")
    before = store.folders()
    store.collect(dry_run=True)
    assert store.folders() == before
    store.collect()
    assert {folder for folder in store.folders() if "empty" in folder} == set()
    assert store.has_tag("1")


def test_an_upload_that_was_written_to_before_it_was_locked_stays() -> None:
    class SlowDriver(MemoryDriver):
        def writer(self, path: str, create: bool) -> IContentWriter:
            content = super().writer(path, create)
            if path.endswith("/data"):
                content.write([b"more"])
            return content

    store = Store(SlowDriver())
    store.image("app", tags=["1"])
    upload = store.upload("busy")
    assert store.collect().uploads.removed == 0 and store.has(upload)
