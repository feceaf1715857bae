"""Would a worse version be noticed in time, and a good one be left alone? Thousands of rollouts of paper.

The decisions are the control plane's own; what they are about is drawn: errors, and lognormal latencies. So the figures
show the rules at the stated traffic, and no real version.
"""

from collections import Counter
from dataclasses import dataclass, replace
from math import ceil
from typing import Final

import numpy as np

from benchmarks.report import publish, table
from control_plane.rollouts.decision import decide
from control_plane.rollouts.evidence import KEPT, ArmEvidence, Evidence, Reservoir
from control_plane.rollouts.state import Definition, Rollout, Rules, decided, start
from gateway.core.snapshot import Arm

ROLLOUTS: Final = 1000
# Goals: of harmful versions, rolled back while they had less than so many percent; of equal ones, rolled back at all.
EARLY: Final = 10
FOUND: Final = 0.95
WRONG: Final = 0.02
LONGEST_S: Final = 7 * 86400.0
HEADER: Final = (
    "the canary",
    "promoted",
    "rolled back",
    f"below {EARLY} %",
    "hours, median",
    "canary's requests, median",
)


@dataclass(frozen=True)
class World:
    """`rate`: requests a second for the model. Errors as shares; medians in ms, with the spread of their logarithm.

    `error_points`, `first_token`, `per_token`: what the canary does worse, in shares and as factors.
    """

    name: str
    rate: float = 100.0
    errors: float = 0.01
    first_token_ms: float = 300.0
    first_token_spread: float = 0.6
    per_token_ms: float = 30.0
    per_token_spread: float = 0.25
    error_points: float = 0.0
    first_token: float = 1.0
    per_token: float = 1.0

    @property
    def equal(self) -> bool:
        return (self.error_points, self.first_token, self.per_token) == (0.0, 1.0, 1.0)

    @property
    def canary(self) -> "World":
        """What the canary's requests are like."""
        return replace(
            self,
            errors=self.errors + self.error_points,
            first_token_ms=self.first_token_ms * self.first_token,
            per_token_ms=self.per_token_ms * self.per_token,
        )


WORLDS: Final = (
    World("no worse, 0.5 % errors", errors=0.005),
    World("no worse, 1 % errors"),
    World("no worse, 5 % errors", errors=0.05),
    World("+2 points of errors, on 0.5 %", errors=0.005, error_points=0.02),
    World("+2 points of errors, on 1 %", error_points=0.02),
    World("+2 points of errors, on 2 %", errors=0.02, error_points=0.02),
    World("+20 % time to first token", first_token=1.2),
    World("+20 % time to first token, spread 0.9", first_token=1.2, first_token_spread=0.9),
    World("+20 % time per output token", per_token=1.2),
)


def run(*, write: bool) -> bool:
    """Simulate, print and (with `write`) record; returns whether the goals were met."""
    rows, met = [], True
    for number, world in enumerate(WORLDS):
        ended = [play(world, np.random.default_rng([number, one])) for one in range(ROLLOUTS)]
        row, good = _judged(world, ended)
        rows.append(row)
        met = met and good
    text = (
        f"`python -m benchmarks rollouts` · simulated, {ROLLOUTS} rollouts a line\n\n{_assumed()}\n\n{_goals(met)}\n\n"
    )
    text += table(HEADER, rows) + "\n"
    publish("rollouts", text, write=write)
    return met


def _assumed() -> str:
    world, rules = World(""), Rules()
    steps = ", ".join(map(str, rules.steps))
    return (
        f"{world.rate:.0f} requests a second for the model, each independent of the others; steps {steps} %, each "
        f"with at least {rules.min_samples} requests of the canary and {rules.min_step_s / 60:.0f} minutes. Where a "
        f"line does not say otherwise: {world.errors:.0%} of errors; lognormal latencies, median "
        f"{world.first_token_ms:.0f} ms to the first token with a spread of the logarithm of "
        f"{world.first_token_spread:g}, and {world.per_token_ms:.0f} ms between tokens with "
        f"{world.per_token_spread:g}."
    )


def _goals(met: bool) -> str:
    return (
        f"Goals: at least {FOUND:.0%} of worse versions rolled back below {EARLY} % of the traffic, at most "
        f"{WRONG:.0%} of equal ones rolled back at all: {'met' if met else 'not met'}."
    )


def play(world: World, dice: np.random.Generator, rules: Rules | None = None) -> Rollout:
    """Until it has ended, or for a week. Time jumps from look to look."""
    definition = Definition(
        model="m", stable=Arm(name="old"), canary=Arm(name="new", group="new"), rules=rules or Rules()
    )
    rollout, now = start("paper", definition, "benchmark", 0.0), 0.0
    evidence = Evidence(step=0, since=0.0)
    while rollout.status == "running" and now < LONGEST_S:
        now = rollout.since + _next_event(rollout, world.rate, now - rollout.since)
        _fill(evidence, world, rollout.share / 100, now - rollout.since, dice)
        decision = decide(rollout, evidence, now)
        if decision is not None:
            rollout = decided(rollout, decision, evidence.canary.requests)
        if rollout.since != evidence.since:
            evidence = Evidence(step=rollout.step, since=rollout.since)
    return rollout


def _next_event(rollout: Rollout, rate: float, lasted: float) -> float:
    """When in the step, in seconds, there can be something to decide."""
    rules, own_rate = rollout.definition.rules, rate * rollout.share / 100
    enough = max(rules.min_samples, 1.25 * rollout.looked_at) / own_rate
    events = (rollout.next_look / own_rate, max(rules.min_step_s, enough))
    return max(lasted + 1.0, min(events))


def _fill(evidence: Evidence, world: World, share: float, seconds: float, dice: np.random.Generator) -> None:
    """What came within the first `seconds` of the step."""
    _fill_arm(evidence.canary, world.canary, ceil(world.rate * share * seconds), dice)
    _fill_arm(evidence.stable, world, ceil(world.rate * (1 - share) * seconds), dice)


def _fill_arm(arm: ArmEvidence, world: World, requests: int, dice: np.random.Generator) -> None:
    new = requests - arm.requests
    arm.requests = requests
    arm.errors += int(dice.binomial(new, world.errors))
    _fill_reservoir(arm.first_token_ms, new, world.first_token_ms, world.first_token_spread, dice)
    _fill_reservoir(arm.per_token_ms, new, world.per_token_ms, world.per_token_spread, dice)


def _fill_reservoir(reservoir: Reservoir, new: int, median: float, spread: float, dice: np.random.Generator) -> None:
    """Once it is full, what it holds is as good as any other part of the same distribution."""
    reservoir.came += new
    room = min(new, KEPT - len(reservoir.values))
    reservoir.values += (median * np.exp(dice.normal(0.0, spread, room))).tolist()


def _judged(world: World, ended: list[Rollout]) -> tuple[list[str], bool]:
    statuses = Counter(rollout.status for rollout in ended)
    back = [rollout for rollout in ended if rollout.status == "rolled_back"]
    early = sum(rollout.history[-1].share < EARLY for rollout in back) / len(ended)
    good = len(back) / len(ended) <= WRONG if world.equal else early >= FOUND
    requests = [_canary_requests(rollout) for rollout in ended]
    hours = [(rollout.history[-1].at - rollout.history[0].at) / 3600 for rollout in ended]
    row = [
        world.name,
        f"{statuses['promoted'] / len(ended):.1%}",
        f"{len(back) / len(ended):.1%}",
        "" if world.equal else f"**{early:.1%}**",
        f"{np.median(hours):.1f}",
        f"{np.median(requests):.0f}",
    ]
    return row, good


def _canary_requests(rollout: Rollout) -> int:
    """All that it got, by the last look at each step."""
    by_step = {decision.share: decision.comparisons[0].canary_samples for decision in rollout.history[1:]}
    return sum(by_step.values())
