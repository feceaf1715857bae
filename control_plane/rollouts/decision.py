"""Go on, go back or wait: what the evidence of a step allows. No clock, no dice, no I/O.

Looking many times must not make false alarms likely. Each look gets its part of the probability `false_alarms` for the
whole rollout, so that by Bonferroni's inequality all parts together never exceed it, whatever the tests have to do with
each other: the steps share it evenly, the three measures within a step do, and look number k of a step gets the share
1/(k(k+1)) of that, which sums up to 1 however many looks there are. Looks come when the canary's requests have
doubled, and once more when the step has lasted long enough.
"""

from statistics import median
from typing import Final

from control_plane.rollouts.evidence import Evidence, Reservoir
from control_plane.rollouts.state import CONTROL_PLANE, Action, Comparison, Decision, Metric, Rollout
from control_plane.rollouts.statistics import excess_reaches, larger, more_often

MEASURES: Final = 3
# Fewer values of a latency are not compared.
FEW: Final = 50
# Once the time is over, more samples are awaited by this factor before the next look.
_MORE: Final = 1.25
_DIGITS: Final = 6


def decide(rollout: Rollout, evidence: Evidence, now: float) -> Decision | None:
    """None while no look is due."""
    if rollout.status != "running" or not _due(rollout, evidence, now):
        return None
    comparisons = _compare(rollout, evidence)
    action, reason = _judge(rollout, evidence, comparisons, now)
    return Decision(
        at=now, by=CONTROL_PLANE, action=action, share=rollout.share, reason=reason, comparisons=comparisons
    )


def harm_below(rollout: Rollout) -> float:
    """The p-value below which the next look takes one measure for worse."""
    rules, look = rollout.definition.rules, rollout.looks + 1
    return rules.false_alarms / (len(rules.steps) - 1) / MEASURES / (look * (look + 1))


def _due(rollout: Rollout, evidence: Evidence, now: float) -> bool:
    rules, requests = rollout.definition.rules, evidence.canary.requests
    if evidence.stable.requests < rules.first_look:
        return False
    if requests >= rollout.next_look:
        return True
    over = now - rollout.since >= rules.min_step_s
    return over and requests >= max(rules.min_samples, _MORE * rollout.looked_at)


def _compare(rollout: Rollout, evidence: Evidence) -> tuple[Comparison, ...]:
    canary, stable = evidence.canary, evidence.stable
    pairs: tuple[tuple[Metric, Reservoir, Reservoir], ...] = (
        ("time_to_first_token", canary.first_token_ms, stable.first_token_ms),
        ("time_per_output_token", canary.per_token_ms, stable.per_token_ms),
    )
    # What neither arm has (embeddings have no tokens) is nothing to wait for.
    found = (_latency(rollout, *pair) for pair in pairs if any(len(one.values) >= FEW for one in pair[1:]))
    return (_errors(rollout, evidence), *found)


def _errors(rollout: Rollout, evidence: Evidence) -> Comparison:
    canary, stable = evidence.canary, evidence.stable
    counts = (canary.errors, canary.requests, stable.errors, stable.requests)
    return Comparison(
        metric="errors",
        canary_samples=canary.requests,
        stable_samples=stable.requests,
        canary=round(canary.errors / canary.requests, _DIGITS),
        stable=round(stable.errors / stable.requests, _DIGITS),
        harm=more_often(*counts),
        harm_below=harm_below(rollout),
        doubt=excess_reaches(rollout.definition.rules.error_margin, *counts),
    )


def _latency(rollout: Rollout, metric: Metric, canary: Reservoir, stable: Reservoir) -> Comparison:
    """The canary is compared with multiples of the stable arm: what is tolerated, and what is too much."""
    rules = rollout.definition.rules
    enough = min(len(canary.values), len(stable.values)) >= FEW
    tolerated = [value * rules.latency_tolerance for value in stable.values]
    too_much = [value * rules.latency_margin for value in stable.values]
    return Comparison(
        metric=metric,
        canary_samples=canary.came,
        stable_samples=stable.came,
        canary=_median(canary),
        stable=_median(stable),
        harm=larger(canary.values, tolerated) if enough else 1.0,
        harm_below=harm_below(rollout),
        doubt=larger(too_much, canary.values) if enough else 1.0,
    )


def _judge(rollout: Rollout, evidence: Evidence, comparisons: tuple[Comparison, ...], now: float) -> tuple[Action, str]:
    rules, missing = rollout.definition.rules, []
    worse = [one for one in comparisons if one.harm < one.harm_below]
    if worse:
        return "roll_back", "worse: " + ", ".join(map(_described, worse))
    if evidence.canary.requests < rules.min_samples:
        missing.append(f"{evidence.canary.requests} of {rules.min_samples} requests")
    if (lasted := now - rollout.since) < rules.min_step_s:
        missing.append(f"{lasted:.0f} of {rules.min_step_s:.0f} s")
    unsure = [_named(one.metric) for one in comparisons if one.doubt > rules.doubt]
    if unsure:
        missing.append("not yet sure of " + ", ".join(unsure))
    if missing:
        return "hold", "; ".join(missing)
    return ("promote" if rollout.last_step else "advance"), "no worse in any measure"


def _described(one: Comparison) -> str:
    if one.metric == "errors":
        return f"errors {one.canary:.2%} against {one.stable:.2%}"
    return f"{_named(one.metric)} {one.canary:.1f} ms against {one.stable:.1f} ms"


def _named(metric: Metric) -> str:
    return metric.replace("_", " ")


def _median(reservoir: Reservoir) -> float:
    return round(median(reservoir.values), _DIGITS) if reservoir.values else 0.0
