"""Pushes beside the collector, both as they are, in every order of their calls of the storage.

The controls break the storage instead of the code: one that does not renew, one whose second look sees old times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import attrs
import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from registryd.config import load
from registryd.errors import BlobUnknown, ManifestBlobUnknown, ManifestUnknown, NameUnknown
from registryd.interfaces import ReferrerPage
from registryd.local import LocalRegistry
from registryd.model import Manifest
from registryd.reference import Digest, RepositoryName, Tag
from registryd.storage import layout
from registryd.storage.interfaces import Leaf
from registryd.storage.memory import MemoryDriver
from registryd_gc.collect import Options, collect
from registryd_gc.report import Report, Silence
from tests.values import GRACE, LATEST, NAME, OTHER, image, index, listed, local_registry, put_blob

from .interleavings import Exploration, World
from .stepped import SteppedDriver, Steps

START: Final = 30 * GRACE
TICK: Final = GRACE * 2 / 3
CONFIG: Final = load(None, {})
OPTIONS: Final = Options(GRACE, untagged_go=True)

LAYER: Final = b"an old layer"
SIGNED: Final = b"a signature"
CHILD: Final = image(LAYER)
INDEX: Final = index(listed(CHILD))
IMAGE: Final = image(LAYER, annotations={"new": "yes"})
SIGNATURE: Final = image(SIGNED, subject=listed(CHILD))
COSIGNED: Final = image(SIGNED)
COSIGN: Final = Tag(f"{str(CHILD.digest).replace(':', '-')}.sig")


@attrs.define
class Push:
    """A pusher, and what it was told. ``since``: when the push of a manifest began that is under way."""

    driver: SteppedDriver
    registry: LocalRegistry
    since: float | None = None
    wanted: dict[str, float | None] = attrs.field(factory=dict)

    def told(self, deferred: Deferred[Any]) -> Any:
        """What a call fires with; None where it is refused for the lack of something."""
        results: list[Any] = []
        deferred.addBoth(results.append)
        (result,) = results
        if isinstance(result, Failure):
            result.trap(ManifestBlobUnknown, BlobUnknown, ManifestUnknown, NameUnknown)
            return None
        return result if result is not None else True

    def promised(self, *paths: str) -> None:
        """Want paths to be there for the time of the grace."""
        self.wanted.update(dict.fromkeys(paths, self.driver.clock + GRACE))

    def put(self, manifest: Manifest, *parts: str, name: RepositoryName = NAME, tag: Tag = LATEST) -> bool:
        """Push a manifest; whether it was acknowledged: then it and its parts have to stay."""
        self.since = self.driver.clock
        done = self.told(self.registry.put_manifest(name, manifest, [tag]))
        self.since = None
        if done:
            paths = (*parts, *revision(name, manifest), layout.tag_link(name, tag))
            self.wanted.update(dict.fromkeys(paths, None))
        return bool(done)

    def missing(self) -> list[str]:
        """What was promised or acknowledged, and is not there."""
        now = self.driver.clock
        paths = [path for path, until in self.wanted.items() if until is None or now < until]
        return [path for path in paths if not self.driver.is_there(path)]


def blob(name: RepositoryName, content: bytes) -> tuple[str, str]:
    digest = Digest.of(content)
    return layout.layer_link(name, digest), layout.blob_data(digest)


def revision(name: RepositoryName, manifest: Manifest) -> tuple[str, str]:
    return layout.revision_link(name, manifest.digest), layout.blob_data(manifest.digest)


@attrs.frozen
class Scenario:
    """What is old and without a tag, and what a pusher does with it."""

    push: Callable[[Push], object]
    blobs: Sequence[bytes] = (LAYER,)
    manifests: Sequence[Manifest] = ()
    tags: Sequence[tuple[Tag, Manifest]] = ()
    name: RepositoryName = NAME
    listed: bool = True

    def prepare(self, registry: LocalRegistry) -> None:
        for content in self.blobs:
            put_blob(registry, content, self.name)
        for manifest in self.manifests:
            registry.put_manifest(self.name, manifest, [])
        for tag, manifest in self.tags:
            registry.put_manifest(self.name, manifest, [tag])
        if not self.listed:
            registry.tree.driver.delete(f"{layout.manifests(self.name)}/referrers")


def push_index(push: Push) -> None:
    """An index over an old child."""
    push.put(INDEX, *revision(NAME, CHILD), *blob(NAME, LAYER))


def push_again(push: Push) -> None:
    """An old layer pushed once more, and an image of it."""
    writer = push.told(push.registry.start_upload(NAME, "sha256"))
    writer.write(LAYER)
    push.told(writer.commit(Digest.of(LAYER)))
    push.promised(*blob(NAME, LAYER))
    push.put(IMAGE, *blob(NAME, LAYER))


def check_and_push(push: Push) -> None:
    """An image of an old layer that a HEAD has found."""
    since = push.driver.clock
    if push.told(push.registry.resolve_blob(NAME, Digest.of(LAYER))):
        push.wanted.update(dict.fromkeys(blob(NAME, LAYER), since + GRACE))
    push.put(IMAGE, *blob(NAME, LAYER))


def tag_again(push: Push) -> None:
    """An old image that gets a tag again; its signature has to stay where it is seen then."""
    if push.put(CHILD, *blob(NAME, LAYER)):
        page = push.told(push.registry.referrers(NAME, CHILD.digest))
        assert isinstance(page, ReferrerPage)
        if page.referrers:
            parts = (*revision(NAME, SIGNATURE), *blob(NAME, SIGNED))
            push.wanted.update(dict.fromkeys(parts, None))


def tag_unlisted(push: Push) -> None:
    """As that, with a signature that Distribution has stored, so that no entry leads from its subject to it."""
    if push.put(CHILD, *blob(NAME, LAYER)) and push.driver.is_there(layout.revision_link(NAME, SIGNATURE.digest)):
        parts = (*revision(NAME, SIGNATURE), *blob(NAME, SIGNED))
        push.wanted.update(dict.fromkeys(parts, None))


def tag_cosigned(push: Push) -> None:
    """As that, with a signature under the tag where cosign looks for it."""
    if push.put(CHILD, *blob(NAME, LAYER)) and push.told(push.registry.resolve_manifest(NAME, COSIGN)):
        parts = (layout.tag_link(NAME, COSIGN), *revision(NAME, COSIGNED), *blob(NAME, SIGNED))
        push.wanted.update(dict.fromkeys(parts, None))


def mount(push: Push) -> None:
    """Mounts into a repository that the collector comes to before or after the one they are from, and an image."""
    source, target = (OTHER, NAME) if push.driver.is_there(layout.layers(OTHER)) else (NAME, OTHER)
    push.told(push.registry.mount_blob(target, Digest.of(LAYER), source))
    push.put(IMAGE, *blob(target, LAYER), name=target)


SCENARIOS: Final = {
    "index": Scenario(push_index, manifests=(CHILD,)),
    "again": Scenario(push_again),
    "check": Scenario(check_and_push),
    "tag": Scenario(tag_again, blobs=(LAYER, SIGNED), manifests=(CHILD, SIGNATURE)),
    "unlisted": Scenario(tag_unlisted, blobs=(LAYER, SIGNED), manifests=(CHILD, SIGNATURE), listed=False),
    "cosigned": Scenario(tag_cosigned, blobs=(LAYER, SIGNED), manifests=(CHILD,), tags=[(COSIGN, COSIGNED)]),
    "mount": Scenario(mount),
    "mount-back": Scenario(mount, name=OTHER),
}


class Race(Steps):
    """A collector and a pusher."""

    def __init__(self, scenario: Scenario, ticks: int, crash: bool, **broken: bool) -> None:
        driver = SteppedDriver(**broken)
        scenario.prepare(local_registry(driver, now=driver.now))
        driver.clock = START
        self.push = Push(driver, local_registry(driver, now=driver.now))
        self.reports: list[Report] = []
        calls = [self.collect, lambda: scenario.push(self.push)]
        super().__init__(driver, calls, [TICK] * ticks, self._may_pass, self.collect if crash else None)

    def _may_pass(self, seconds: float) -> bool:
        # Between a promise and the push that relies on it; the model of the protocol lets it pass everywhere.
        return bool(self.push.wanted) and self.push.since is None

    def collect(self) -> None:
        self.reports.append(collect(self.driver, CONFIG, OPTIONS, Silence()))


def wrong(world: World) -> list[str]:
    """What is lost, damaged or failed; also after one more run, much later."""
    assert isinstance(world, Race)
    faults = [repr(error) for actor in world.actors for error in actor.errors]
    faults += [f"missing: {path}" for path in world.push.missing()]
    world.driver.clock += START
    world.collect()
    faults += [f"missing later: {path}" for path in world.push.missing()]
    return faults + [f"damage: {damage}" for report in world.reports for damage in report.damage]


def explore(scenario: str, ticks: int = 0, crash: bool = False, **broken: bool) -> tuple[Exploration, str | None]:
    exploration = Exploration(lambda: Race(SCENARIOS[scenario], ticks, crash, **broken))
    return exploration, next(exploration.faults(wrong), None)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_nothing_acknowledged_is_lost(scenario: str) -> None:
    exploration, fault = explore(scenario)
    assert fault is None
    assert len(exploration.states) > 200 and exploration.ends > 10, "too little was tried to prove anything"


def test_a_promise_holds_while_time_passes() -> None:
    exploration, fault = explore("check", ticks=1)
    assert fault is None
    assert len(exploration.states) > 250


def test_a_killed_run_and_the_next_lose_nothing() -> None:
    exploration, fault = explore("check", crash=True)
    assert fault is None
    assert len(exploration.states) > 400


def test_control_nothing_is_renewed() -> None:
    _, fault = explore("index", renews=False)
    assert fault is not None and "missing" in fault


@pytest.mark.parametrize("scenario", ["index", "again", "check", "tag", "mount"])
def test_control_no_second_look(scenario: str) -> None:
    _, fault = explore(scenario, second_look=False)
    assert fault is not None and "missing" in fault


class PushedBetween(MemoryDriver):
    """A driver that lets something happen before the tags of a repository are listed, which is after its manifests."""

    between: Callable[[], object] | None = None

    def leaves(self, path: str, leaf: str, others: bool) -> Iterator[Leaf]:
        if path == layout.tags(NAME) and self.between is not None:
            between, self.between = self.between, None
            between()
        return super().leaves(path, leaf, others)


def test_a_push_between_two_looks_is_no_damage() -> None:
    driver = PushedBetween()
    registry = local_registry(driver)
    put_blob(registry, LAYER)
    registry.put_manifest(NAME, CHILD, [Tag("other")])
    driver.between = lambda: registry.put_manifest(NAME, IMAGE, [LATEST])
    assert collect(driver, CONFIG, OPTIONS, Silence()).damage == []
    assert driver.between is None
