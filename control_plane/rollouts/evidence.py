"""What a step has shown so far: exact counts of errors, and a bounded, uniform sample of latencies, for each arm."""

from random import Random
from typing import Final

import msgspec

# Of one measure of one arm. More would not make a decision better that only asks for differences of a few percent.
KEPT: Final = 4000
# Calls that arrive just after a step began may still have been divided as before.
PROPAGATION_S: Final = 5.0


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One request. `began`: Unix seconds.

    `first_token_ms`: without the wait for admission, for which no arm is to blame.
    """

    model: str
    arm: str
    began: float
    failed: bool
    first_token_ms: float | None = None
    per_token_ms: float | None = None


class Reservoir(msgspec.Struct):
    """At most `KEPT` of all values that came, each with the same probability (J. S. Vitter's algorithm R, 1985)."""

    came: int = 0
    values: list[float] = msgspec.field(default_factory=list)

    def add(self, value: float, dice: Random) -> None:
        self.came += 1
        if len(self.values) < KEPT:
            self.values.append(value)
            return
        place = dice.randrange(self.came)
        if place < KEPT:
            self.values[place] = value


class ArmEvidence(msgspec.Struct):
    """`requests`: that succeeded or failed."""

    requests: int = 0
    errors: int = 0
    first_token_ms: Reservoir = msgspec.field(default_factory=Reservoir)
    per_token_ms: Reservoir = msgspec.field(default_factory=Reservoir)

    def add(self, sample: Sample, dice: Random) -> None:
        self.requests += 1
        self.errors += sample.failed
        if sample.first_token_ms is not None:
            self.first_token_ms.add(sample.first_token_ms, dice)
        if sample.per_token_ms is not None:
            self.per_token_ms.add(sample.per_token_ms, dice)


class Evidence(msgspec.Struct, kw_only=True):
    """Of one step of a rollout that began at `since`. Both arms, since the same moment."""

    step: int
    since: float
    canary: ArmEvidence = msgspec.field(default_factory=ArmEvidence)
    stable: ArmEvidence = msgspec.field(default_factory=ArmEvidence)

    def add(self, sample: Sample, canary: str, stable: str, dice: Random) -> None:
        """`canary`, `stable`: the names of the arms. Requests of others, or of before, count for neither."""
        if sample.began < self.since + PROPAGATION_S:
            return
        if sample.arm == canary:
            self.canary.add(sample, dice)
        elif sample.arm == stable:
            self.stable.add(sample, dice)
