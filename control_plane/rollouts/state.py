"""What a rollout is and where it stands. Every change makes a new record, with one more entry in its history."""

from typing import Annotated, Final, Literal

import msgspec
from msgspec.structs import replace

from control_plane.errors import NotPossible
from gateway.core.snapshot import Arm

Status = Literal["running", "paused", "promoted", "rolled_back", "aborted"]
Metric = Literal["errors", "time_to_first_token", "time_per_output_token"]
Action = Literal["start", "hold", "advance", "promote", "roll_back", "pause", "resume", "abort"]

OPEN: Final = frozenset({"running", "paused"})
WHOLE: Final = 100
CONTROL_PLANE: Final = "control plane"

Percent = Annotated[int, msgspec.Meta(ge=1, le=WHOLE)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Ratio = Annotated[float, msgspec.Meta(ge=1)]


class Rules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When to go on, when back.

    `steps`: percent of the calls that the canary gets, one after the other. `min_samples`: requests of the canary at
    each step, at least; `min_step_s`: how long a step takes, at least. `false_alarms`: how probable it may be that a
    version that is no worse is rolled back, over the whole rollout. `error_margin`, `latency_margin`: so many more
    errors (1: every request), so many times the latency must be excluded before the next step, each with no more than
    the probability `doubt` to be wrong. `latency_tolerance`: up to so many times is no harm. `first_look`: requests of
    the canary.
    """

    steps: tuple[Percent, ...] = (1, 5, 25, 50, WHOLE)
    min_samples: Annotated[int, msgspec.Meta(ge=50)] = 1000
    min_step_s: Annotated[float, msgspec.Meta(ge=0)] = 600.0
    false_alarms: Share = 0.01
    error_margin: Share = 0.02
    latency_margin: Ratio = 1.2
    latency_tolerance: Ratio = 1.05
    doubt: Share = 0.05
    first_look: Annotated[int, msgspec.Meta(ge=20)] = 125

    def problems(self) -> list[str]:
        """What no single field can tell."""
        found = []
        if len(self.steps) < 2 or self.steps[-1] != WHOLE or list(self.steps) != sorted(set(self.steps)):  # noqa: PLR2004
            found.append(f"steps must grow and end with {WHOLE}, after at least one other")
        if self.latency_tolerance >= self.latency_margin:
            found.append("latency_tolerance must be less than latency_margin")
        return found


class Definition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to replace what, and by which rules."""

    model: str
    stable: Arm
    canary: Arm
    rules: Rules = Rules()


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The canary beside the stable arm at the same time.

    `canary`, `stable`: share of errors, or median milliseconds. `harm`: p-value of "no worse"; below `harm_below` it is
    worse. `doubt`: p-value of "worse by the margin or more"; at most `Rules.doubt` is good.
    """

    metric: Metric
    canary_samples: int
    stable_samples: int
    canary: float
    stable: float
    harm: float
    harm_below: float
    doubt: float


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """`at`: Unix seconds. `by`: a person, or the control plane. `share`: percent that the canary had then."""

    at: float
    by: str
    action: Action
    share: int
    reason: str
    comparisons: tuple[Comparison, ...] = ()


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """`step`: index into the steps; `since`: when it began, Unix seconds. `looks`: at the samples of this step, so far;
    `looked_at`: how many the canary had at the last one. `settled`: it has ended, and routing follows it no more.
    """

    id: str
    definition: Definition
    since: float
    revision: int = 1
    status: Status = "running"
    step: int = 0
    looks: int = 0
    looked_at: int = 0
    settled: bool = False
    history: tuple[Decision, ...] = ()

    @property
    def started_at(self) -> float:
        """Unix seconds."""
        return self.history[0].at

    @property
    def share(self) -> int:
        """Percent of the model's calls that the canary should have now."""
        match self.status:
            case "promoted":
                return WHOLE
            case "rolled_back" | "aborted":
                return 0
            case _:
                return self.definition.rules.steps[self.step]

    @property
    def last_step(self) -> bool:
        """The next one is everything: nothing is left then to compare with."""
        return self.step == len(self.definition.rules.steps) - 2

    @property
    def next_look(self) -> int:
        """Requests of the canary at which its samples are due to be looked at."""
        return self.definition.rules.first_look if not self.looked_at else 2 * self.looked_at

    @property
    def problem(self) -> str:
        return f"rollout {self.id} of {self.definition.model} has ended: {self.status.replace('_', ' ')}"


def start(identifier: str, definition: Definition, by: str, now: float) -> Rollout:
    """Raises NotPossible."""
    problems = definition.rules.problems()
    if definition.canary.name == definition.stable.name:
        problems.append(f"the canary needs another name than the stable arm, {definition.stable.name}")
    if problems:
        raise NotPossible("; ".join(problems))
    rollout = Rollout(id=identifier, definition=definition, since=now)
    first = Decision(at=now, by=by, action="start", share=rollout.share, reason=f"{definition.canary.name} begins")
    return replace(rollout, history=(first,))


def pause(rollout: Rollout, by: str, now: float) -> Rollout:
    """The canary keeps its share, and nothing is decided. Raises NotPossible."""
    if rollout.status != "running":
        raise NotPossible(f"rollout {rollout.id} is not running")
    return _after(rollout, Decision(at=now, by=by, action="pause", share=rollout.share, reason=""), status="paused")


def resume(rollout: Rollout, by: str, now: float) -> Rollout:
    """The step goes on where it was, with the samples that came meanwhile. Raises NotPossible."""
    if rollout.status != "paused":
        raise NotPossible(f"rollout {rollout.id} is not paused")
    return _after(rollout, Decision(at=now, by=by, action="resume", share=rollout.share, reason=""), status="running")


def abort(rollout: Rollout, by: str, now: float, reason: str = "") -> Rollout:
    """Everybody back to the stable arm. Raises NotPossible."""
    if rollout.status not in OPEN:
        raise NotPossible(rollout.problem)
    decision = Decision(at=now, by=by, action="abort", share=rollout.share, reason=reason)
    return _after(rollout, decision, status="aborted")


def settle(rollout: Rollout) -> Rollout:
    """Routing has taken over how it ended."""
    return replace(rollout, revision=rollout.revision + 1, settled=True)


def decided(rollout: Rollout, decision: Decision, samples: int) -> Rollout:
    """After a look at `samples` requests of the canary."""
    match decision.action:
        case "hold":
            return _after(rollout, decision, looks=rollout.looks + 1, looked_at=samples)
        case "advance":
            return _after(rollout, decision, step=rollout.step + 1, since=decision.at, looks=0, looked_at=0)
        case "promote":
            return _after(rollout, decision, status="promoted", step=rollout.step + 1, since=decision.at)
        case "roll_back":
            return _after(rollout, decision, status="rolled_back", since=decision.at)
        case other:
            raise ValueError(f"{other} follows from no look")


def _after(rollout: Rollout, decision: Decision, **changed: object) -> Rollout:
    history = (*rollout.history, decision)
    return replace(rollout, revision=rollout.revision + 1, history=history, **changed)
