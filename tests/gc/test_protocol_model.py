"""The protocol of collection, tried in every order of its steps: nothing that was acknowledged is lost.

Each control leaves a part of the protocol out, and the model has to find the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import pytest

from .interleavings import Exploration, World
from .protocol import (
    GRACE,
    LATE,
    OLD,
    TICK,
    Model,
    Program,
    Rules,
    Store,
    check_and_push,
    clock,
    collector,
    mount_backward,
    mount_forward,
    push_again,
    push_index,
    tag_again,
    tag_unlisted,
)

Pusher = Callable[[Store, Rules], Program]

CHILD = ("a/rev/child", "data/child", "a/link/layer", "data/layer")
SIGNED = (*CHILD, "a/rev/signature", "data/signature", "a/link/payload", "data/payload")
LAYER = ("a/link/layer", "data/layer")

SCENARIOS: Sequence[tuple[Pusher, Sequence[str]]] = (
    (push_index, CHILD),
    (push_again, LAYER),
    (check_and_push, LAYER),
    (tag_again, SIGNED),
    (tag_unlisted, SIGNED),
    (mount_forward, LAYER),
    (mount_backward, ("b/link/layer", "data/layer")),
)
WHOLE = Rules()
NAMES = [pusher.__name__ for pusher, _ in SCENARIOS]


def world(pusher: Pusher, old: Iterable[str], rules: Rules, collectors: int, crash: bool) -> World:
    store = Store(dict.fromkeys(old, OLD))
    runs = [collector(store, rules, f"run{number}") for number in range(collectors)]
    follower = partial(collector, store, rules, "next") if crash else None
    return Model(store, [*runs, pusher(store, rules), clock(store, TICK if crash else 2 * GRACE)], follower)


def lost(world: World) -> list[str]:
    """What pushers were told and does not hold: once all have ended, and after one more run much later."""
    assert isinstance(world, Model)
    store = world.store
    promised = {path for path, until in store.promised.items() if store.now < until}
    missing = (store.acknowledged | promised) - set(store.times)
    store.now += LATE
    for _ in collector(store, WHOLE):
        pass
    return sorted(missing | store.acknowledged - set(store.times))


def explore(
    pusher: Pusher, old: Iterable[str], rules: Rules = WHOLE, collectors: int = 1, crash: bool = False
) -> tuple[Exploration, str | None]:
    """Everything that can happen, or what happens up to the first loss, and that."""
    exploration = Exploration(lambda: world(pusher, old, rules, collectors, crash))
    return exploration, next(exploration.faults(lost), None)


@pytest.mark.parametrize(("pusher", "old"), SCENARIOS, ids=NAMES)
def test_nothing_acknowledged_is_lost(pusher: Pusher, old: Sequence[str]) -> None:
    exploration, loss = explore(pusher, old)
    assert loss is None
    assert len(exploration.states) > 1000 and exploration.ends > 5, "too little was tried to prove anything"


@pytest.mark.parametrize(("pusher", "old"), SCENARIOS[:3], ids=NAMES[:3])
def test_a_killed_run_and_the_next_lose_nothing(pusher: Pusher, old: Sequence[str]) -> None:
    exploration, loss = explore(pusher, old, crash=True)
    assert loss is None
    assert len(exploration.states) > 1500


@pytest.mark.parametrize("young_keeps_parts", [True, False])
@pytest.mark.parametrize("to_any_depth", [True, False])
def test_control_depth(to_any_depth: bool, young_keeps_parts: bool) -> None:
    """The layers of an old child go from under a new index, unless one of the two sides looks after them."""
    _, loss = explore(push_index, CHILD, Rules(to_any_depth=to_any_depth, young_keeps_parts=young_keeps_parts))
    assert (loss is None) == (to_any_depth or young_keeps_parts)


@pytest.mark.parametrize(("pusher", "old"), SCENARIOS, ids=NAMES)
def test_control_no_second_look(pusher: Pusher, old: Sequence[str]) -> None:
    """What is used between the look and the rename goes."""
    _, loss = explore(pusher, old, Rules(second_look=False))
    assert loss is not None


@pytest.mark.parametrize(("pusher", "old"), SCENARIOS, ids=NAMES)
def test_control_sliding_cutoff(pusher: Pusher, old: Sequence[str]) -> None:
    """What is renewed before the mark and tagged after it goes, where the run lasts long."""
    _, loss = explore(pusher, old, Rules(fixed_cutoff=False))
    assert loss is not None


def test_control_no_look_at_the_subject() -> None:
    """The signature goes from an image that was pushed again, where the push could not know of it."""
    _, loss = explore(tag_unlisted, SIGNED, Rules(look_at_subject=False))
    assert loss is not None


def test_control_shared_trash() -> None:
    """One run unlinks what another has just set aside: the blob that was pushed meanwhile."""
    _, loss = explore(push_again, LAYER, Rules(own_trash=False, put_back_first=False), collectors=2)
    assert loss is not None


def test_control_trash_of_a_killed_run_stays() -> None:
    _, loss = explore(push_again, LAYER, Rules(put_back_first=False), crash=True)
    assert loss is not None


def test_control_an_upload_keeps_the_old_file() -> None:
    _, loss = explore(push_again, LAYER, Rules(upload_is_new=False))
    assert loss is not None
