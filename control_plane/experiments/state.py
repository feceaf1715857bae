"""What an experiment or a mirroring is and where it stands. Every change makes a new record."""

from typing import Annotated, Final

import msgspec
from msgspec.structs import replace

from control_plane.errors import NotPossible
from gateway.core.snapshot import Mirror, Unit

PLANNED: Final = 10_000
CONFIDENCE: Final = 0.95

Planned = Annotated[int, msgspec.Meta(ge=100)]
Confidence = Annotated[float, msgspec.Meta(gt=0.5, lt=1)]
Weight = Annotated[int, msgspec.Meta(ge=1)]


class _Trial(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """`planned`, `confidence`: how its intervals are made. `settled`: it is over, and routing follows it no more.

    Times are Unix seconds.
    """

    id: str
    model: str
    started_at: float
    started_by: str
    planned: Planned = PLANNED
    confidence: Confidence = CONFIDENCE
    revision: int = 1
    ended_at: float | None = None
    ended_by: str = ""
    settled: bool = False

    @property
    def under_way(self) -> bool:
        return self.ended_at is None


class Experiment(_Trial, frozen=True, kw_only=True, tag="experiment"):
    """`arms`: their weights by name; the first is what the others are compared with. `by`: who keeps an arm.

    `before`: weights of all arms, which come back at the end.
    """

    arms: dict[str, Weight]
    by: Unit
    before: dict[str, int]

    @property
    def first(self) -> str:
        return next(iter(self.arms))


class Mirroring(_Trial, frozen=True, kw_only=True, tag="mirroring"):
    """`mirror`: as the routing document has it."""

    mirror: Mirror


Trial = Experiment | Mirroring


def checked(experiment: Experiment) -> Experiment:
    """Raises NotPossible."""
    if len(experiment.arms) < 2:  # noqa: PLR2004
        raise NotPossible("an experiment compares at least two arms")
    return experiment


def stop(trial: Trial, by: str, now: float) -> Trial:
    """Raises NotPossible."""
    if not trial.under_way:
        raise NotPossible(f"that of {trial.model} is over already: {trial.id}")
    return replace(trial, revision=trial.revision + 1, ended_at=now, ended_by=by)


def settle(trial: Trial) -> Trial:
    """Routing has taken over that it is over."""
    return replace(trial, revision=trial.revision + 1, settled=True)
