"""Which tags the configured rules let go, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs

from registryd.config import Retention
from registryd.globs import Globs
from registryd.reference import RepositoryName, Tag
from registryd_gc.census import Tagged

_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "m"))


@attrs.frozen
class Decision:
    """Whether a tag stays, and why."""

    stays: bool
    why: str


@attrs.frozen
class Rule:
    """A rule of ``gc.retention``.

    What it keeps stays whatever it deletes. With ``keepnewest`` alone all others go; beside ``deleteunused`` or
    ``deleteolder`` these say which.
    """

    settings: Retention
    repositories: Globs
    keep_tags: Globs

    @classmethod
    def of(cls, settings: Retention) -> Rule:
        return cls(settings, Globs(settings.repositories), Globs(settings.keep_tags))

    def decide(self, tags: Iterable[Tagged], pushed: Callable[[Tagged], float], now: float) -> Mapping[Tag, Decision]:
        """What becomes of tags, of all to which the rule applies. ``pushed`` tells when a tag last was."""
        ordered = sorted(((pushed(tag), tag) for tag in tags), key=lambda pair: (-pair[0], pair[1].name))
        return {
            tag.name: self._decision(tag, place, now - time, now - tag.used)
            for place, (time, tag) in enumerate(ordered)
        }

    def _decision(self, tag: Tagged, place: int, since_push: float, since_use: float) -> Decision:
        newest, unused, older = self.settings.keep_newest, self.settings.delete_unused, self.settings.delete_older
        if self.keep_tags.match(tag.name):
            return Decision(True, "keeptags matches it")
        if newest is not None and place < newest:
            return Decision(True, f"among the newest {newest}")
        if unused is not None and since_use > unused:
            return Decision(False, f"not used for {_duration(since_use)}, more than {_duration(unused)}")
        if older is not None and since_push > older:
            return Decision(False, f"pushed {_duration(since_push)} ago, more than {_duration(older)}")
        if newest is not None and unused is None and older is None:
            return Decision(False, f"not among the newest {newest}")
        return Decision(True, f"pushed {_duration(since_push)} ago, used {_duration(since_use)} ago")


def rule_for(rules: Sequence[Rule], repository: RepositoryName) -> Rule | None:
    """The first rule that applies to a repository."""
    return next((rule for rule in rules if rule.repositories.match(repository)), None)


def _duration(seconds: float) -> str:
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.3g}{unit}"
    return f"{max(seconds, 0.0):.0f}s"
