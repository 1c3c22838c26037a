"""The hammer's clients: they push, mount, tag, sign, delete and pull the same few things again and again."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from tests.clients.v2 import V2, Answer, digest_of, with_digest

from .books import Repository
from .pushers import BROKEN, OCTETS, Target
from .stock import Item, Stock

_T = TypeVar("_T")

REFUSALS = 200
"""Pushes of one manifest that may be refused, one after another, because what it needs was collected meanwhile."""

BLINK = 3.0
"""Seconds for which what is there may be out of sight: a collector takes it, sees that it is young, puts it back."""


class Client(threading.Thread):
    """One client of several registries on one store, until they are over. ``seed`` fixes what it wants to do."""

    def __init__(
        self, number: int, seed: str, targets: Sequence[Target], stock: Stock, repositories: Sequence[Repository]
    ) -> None:
        super().__init__(name=f"client-{number}", daemon=True)
        self._choice = random.Random(f"{seed}/{number}")
        self._targets = targets
        self._stock = stock
        self._repositories = repositories
        self._session: V2 | None = None
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []

    def run(self) -> None:
        while not self._targets[0].over.is_set():
            try:
                self._step()
            except Exception as error:  # noqa: BLE001 (a thread's failure is the test's)
                self.faults.append(f"{self.name}: {type(error).__name__}: {error}")
            self._hang_up()

    def _step(self) -> None:
        steps = (
            self._push,
            self._tag_again,
            self._sign,
            self._cosign,
            self._delete_tag,
            self._delete_manifest,
            self._pull,
        )
        (step,) = self._choice.choices(steps, weights=(5, 4, 3, 2, 4, 1, 3))
        step(self._choice.choice(self._repositories))
        self.counts[step.__name__.strip("_")] += 1

    def _hang_up(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    @property
    def _registry(self) -> V2:
        if self._session is None:
            self._session = V2("127.0.0.1", self._choice.choice(self._targets).port())
        return self._session

    def _answered(self, call: Callable[[], _T]) -> _T:
        """What a call comes to; it is made until it is answered, by whichever registry is there."""
        deadline = time.monotonic() + 60
        while True:
            try:
                return call()
            except BROKEN:
                self.counts["broken"] += 1
                self._hang_up()
                if time.monotonic() > deadline:
                    raise

    # What clients do.

    def _push(self, repository: Repository) -> None:
        """An image or an index, with all that belongs to it."""
        self._put_tag(repository, self._choice.choice(self._stock.tagged), eager=True)

    def _tag_again(self, repository: Repository) -> None:
        """What was pushed once, and may be old and without a tag, gets one; its signatures are seen with it."""
        self._put_tag(repository, self._choice.choice(self._stock.tagged), eager=False)

    def _put_tag(self, repository: Repository, item: Item, eager: bool) -> None:
        tag = self._choice.choice(list(repository.tag_locks))
        with repository.gate.together(), repository.tag_locks[tag]:
            repository.begin(tag, item)
            self._put(repository, tag, item, eager)
            repository.done(tag, item)
            self._note_referrers(repository, item)
            if self._choice.random() < 0.3:
                self._check_tag(repository, tag, item)

    def _note_referrers(self, repository: Repository, subject: Item) -> None:
        """What refers to something that has a tag now, and is seen, has to stay."""
        token = repository.watch(subject)
        path = f"/v2/{repository.name}/referrers/{subject.digest}"
        listed = self._answered(lambda: self._registry.get(path).expect(200)).json["manifests"]
        digests = {each["digest"] for each in listed}
        for referrer in self._stock.referrers_of(subject):
            if referrer.digest in digests:
                self.counts["seen referrers"] += 1
                repository.signed(referrer, subject, token)

    def _sign(self, repository: Repository) -> None:
        signature = self._choice.choice(self._stock.referrers)
        subject = signature.subject
        assert subject is not None
        with repository.gate.together():
            token = repository.watch(subject)
            if token is not None:
                self._put(repository, signature.digest, signature, True)
                repository.signed(signature, subject, token)

    def _cosign(self, repository: Repository) -> None:
        subject = self._choice.choice(self._stock.tagged)
        with repository.gate.together():
            token = repository.watch(subject)
            if token is not None:
                signature = self._stock.cosigned[subject]
                self._put(repository, subject.signature_tag, signature, True)
                repository.signed(signature, subject, token, subject.signature_tag)

    def _delete_tag(self, repository: Repository) -> None:
        tag = self._choice.choice(list(repository.tag_locks))
        with repository.gate.together(), repository.tag_locks[tag]:
            repository.begin(tag, None)
            path = f"/v2/{repository.name}/manifests/{tag}"
            self._answered(lambda: self._registry.ask("DELETE", path).expect(202, 404))
            repository.done(tag, None)

    def _delete_manifest(self, repository: Repository) -> None:
        """A manifest with its tags; no other client is in the repository meanwhile, but the collector is."""
        item = self._choice.choice(self._stock.parents)
        with repository.gate.alone():
            tags = repository.tags_of(item)
            for tag in tags:
                repository.begin(tag, None)
            path = f"/v2/{repository.name}/manifests/{item.digest}"
            self._answered(lambda: self._registry.ask("DELETE", path).expect(202, 404))
            for tag in tags:
                repository.done(tag, None)

    def _pull(self, repository: Repository) -> None:
        tag = self._choice.choice(list(repository.tag_locks))
        with repository.gate.together(), repository.tag_locks[tag]:
            item = repository.tag(tag)
            if item is not None:
                self._check_tag(repository, tag, item)

    # How they do it.

    def _put(self, repository: Repository, reference: str, item: Item, eager: bool) -> None:
        """Push a manifest; with ``eager`` what it needs before it, else only where it is refused for the lack of it."""
        path, headers = f"/v2/{repository.name}/manifests/{reference}", {"Content-Type": item.media_type}
        for attempt in range(REFUSALS):
            if eager or attempt:
                self._put_parts(repository, item, careful=attempt > 0)
            answer = self._answered(lambda: self._registry.ask("PUT", path, item.content, headers))
            if answer.status == 201:
                return
            codes = {error["code"] for error in answer.expect(400, 503).json["errors"]}
            # A grace of a second may be over before a push on a busy disk is: then it has to be repeated.
            assert codes == ({"UNAVAILABLE"} if answer.status == 503 else {"MANIFEST_BLOB_UNKNOWN"}), codes
            self.counts["refused" if answer.status == 400 else "late"] += 1
        raise AssertionError(f"{repository.name}: {item} was refused {REFUSALS} times")

    def _put_parts(self, repository: Repository, item: Item, careful: bool) -> None:
        for blob in item.blobs:
            self._answered(lambda blob=blob: self._put_blob(repository, blob, careful))  # type: ignore[misc]
        for child in item.children:
            if careful or self._choice.random() < 0.5:
                self._put(repository, child.digest, child, True)

    def _put_blob(self, repository: Repository, content: bytes, careful: bool) -> None:
        ways = (self._upload,) if careful else (self._check, self._mount, self._upload)
        self._choice.choice(ways)(repository, content)

    def _check(self, repository: Repository, content: bytes) -> None:
        path = f"/v2/{repository.name}/blobs/{digest_of(content)}"
        if self._registry.ask("HEAD", path).expect(200, 404).status == 404:
            self._upload(repository, content)

    def _mount(self, repository: Repository, content: bytes) -> None:
        source, digest = self._choice.choice(self._repositories), digest_of(content)
        path = f"/v2/{repository.name}/blobs/uploads/?mount={digest}&from={source.name}"
        answer = self._registry.ask("POST", path, b"").expect(201, 202)
        if answer.status == 202:
            self._registry.ask("PUT", with_digest(answer.location, digest), content, OCTETS).expect(201)
        else:
            self.counts["mounted"] += 1

    def _upload(self, repository: Repository, content: bytes) -> None:
        if self._choice.random() < 0.5:
            self._registry.push_blob(repository.name, content)
            return
        location = self._registry.start_upload(repository.name)
        location = self._registry.ask("PATCH", location, content, OCTETS).expect(202).location
        self._registry.ask("PUT", with_digest(location, digest_of(content)), b"").expect(201)

    def _check_tag(self, repository: Repository, tag: str, item: Item) -> None:
        faults = self._answered(lambda: missing(self._registry, repository.name, tag, item))
        deadline = time.monotonic() + BLINK
        while faults and time.monotonic() < deadline:
            self.counts["blinks"] += 1
            faults = self._answered(lambda: missing(self._registry, repository.name, tag, item))
        self.faults += [f"{self.name}: {repository.name}:{tag}: {fault}" for fault in faults]


def missing(registry: V2, repository: str, reference: str, item: Item) -> list[str]:
    """What of a manifest, and of all that belongs to it, a registry does not serve whole."""
    wanted = [(f"manifests/{reference}", item.content)]
    for part in item.whole():
        wanted.append((f"manifests/{part.digest}", part.content))
        wanted += [(f"blobs/{digest_of(blob)}", blob) for blob in part.blobs]
    answers: list[tuple[str, bytes, Answer]] = [
        (path, content, registry.get(f"/v2/{repository}/{path}")) for path, content in wanted
    ]
    return [
        f"{path}: {answer.status}, {len(answer.body)} of {len(content)} bytes"
        for path, content, answer in answers
        if answer.status != 200 or answer.body != content
    ]
