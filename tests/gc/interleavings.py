"""All orders in which the steps of several actors can come, each state once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Protocol

Choice = tuple[str, int]
"""What happens next: ``step`` or ``kill``, and the actor that it happens to."""


class World(Protocol):
    """Actors and what they share, at one moment. The same choices always lead to the same state."""

    def choices(self) -> Sequence[Choice]:
        """What can happen next; nothing once every actor has ended."""

    def take(self, choice: Choice) -> None:
        """Let it happen."""

    def state(self) -> Hashable:
        """All that the future depends on: two worlds whose states are equal go on alike."""

    def close(self) -> None:
        """Give up a world that has not come to its end."""


class Exploration:
    """Visits every state that worlds of a kind can come to; ``states`` and ``ends`` tell how many there were."""

    def __init__(self, start: Callable[[], World]) -> None:
        self._start = start
        self.states: set[Hashable] = set()
        self.ends = 0

    def faults(self, judge: Callable[[World], Sequence[str]]) -> Iterator[str]:
        """What is wrong at any end, with the choices that lead there."""
        pending: list[tuple[Choice, ...]] = [()]
        while pending:
            taken = pending.pop()
            world = self._start()
            try:
                for choice in taken:
                    world.take(choice)
                ended = self._go_on(world, list(taken), pending)
                if ended is not None:
                    self.ends += 1
                    for fault in judge(world):
                        yield f"{fault} after {_short(ended)}"
            finally:
                world.close()

    def _go_on(self, world: World, taken: list[Choice], pending: list[tuple[Choice, ...]]) -> list[Choice] | None:
        """Follow the first choices to the end, noting the others; None where a known state is met before."""
        while True:
            state = world.state()
            if state in self.states:
                return None
            self.states.add(state)
            choices = world.choices()
            if not choices:
                return taken
            pending += [(*taken, other) for other in choices[1:]]
            world.take(choices[0])
            taken.append(choices[0])


def _short(choices: Sequence[Choice]) -> str:
    """Choices as a text: ``0x12 1x3`` are twelve steps of the first actor, then three of the second."""
    parts: list[tuple[str, int]] = []
    for kind, actor in choices:
        name = f"{'kill ' if kind == 'kill' else ''}{actor}"
        if parts and parts[-1][0] == name:
            parts[-1] = name, parts[-1][1] + 1
        else:
            parts.append((name, 1))
    return " ".join(f"{name}x{count}" for name, count in parts)
