"""Evidence as a table: each measure of each arm, and how far it is from the first arm's."""

import math
from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from control_plane.experiments.evidence import MEASURES, ArmEvidence, Evidence, Measure, Pairs, Tally
from control_plane.experiments.state import Experiment, Mirroring
from control_plane.experiments.statistics import Estimate, Interval, Looks, around, estimate, share_interval, smoothed

# Units that each arm must have, by buckets that are not empty, before anything is said of how sure it is.
FEW_BUCKETS: Final = 25
FEW: Final = 100
# Of "the arms got what their weights say", over all looks.
_STRAY_CONFIDENCE: Final = 0.999

Difference = Literal["points", "times"]
_TIMES: Final = frozenset({"time_to_first_token", "time_per_output_token"})
_MEANS: Final = frozenset({"tokens", "price"})


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One measure of one arm.

    `value`: share of errors, geometric mean of milliseconds, mean of tokens, of price (10⁻⁹ of the currency) or of the
    score. `difference`: to the first arm's: `points`, of a share (0.01: one point) or score, or how many `times` it.
    Intervals are None while there is too little to tell: `missing` says what.
    """

    measure: Measure
    arm: str
    count: int
    value: float
    interval: Interval | None = None
    median: float | None = None
    p95: float | None = None
    kind: Difference | None = None
    difference: float | None = None
    difference_interval: Interval | None = None
    p_value: float | None = None
    missing: str = ""


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """`warnings`: why these numbers may mislead."""

    rows: tuple[Row, ...]
    warnings: tuple[str, ...] = ()


class Paired(msgspec.Struct, frozen=True, kw_only=True):
    """A copy against its original. `difference`: in points, or how many times as much; of `same` the share itself."""

    measure: Literal["errors", "time_to_first_token", "time_per_output_token", "same"]
    count: int
    difference: float
    interval: Interval | None = None
    p_value: float | None = None
    missing: str = ""


def results(experiment: Experiment, evidence: Evidence) -> Results:
    """By measure, the arms in the experiment's order."""
    comparisons = max(1, len(experiment.arms) - 1)
    looks = Looks(experiment.planned, 1 - (1 - experiment.confidence) / comparisons)
    rows = [row for measure in MEASURES for row in _rows(experiment, evidence, measure, looks)]
    return Results(rows=tuple(rows), warnings=tuple(_warnings(experiment, evidence)))


def paired(mirroring: Mirroring, pairs: Pairs) -> tuple[Paired, ...]:
    looks = Looks(mirroring.planned, mirroring.confidence)
    measures: tuple[tuple[Literal["errors", "time_to_first_token", "time_per_output_token", "same"], Tally], ...] = (
        ("errors", pairs.errors),
        ("time_to_first_token", pairs.first_token),
        ("time_per_output_token", pairs.per_token),
        ("same", pairs.same),
    )
    return tuple(_paired(name, found, looks) for name, tally in measures if (found := _estimated(tally)) is not None)


def _rows(experiment: Experiment, evidence: Evidence, measure: Measure, looks: Looks) -> Iterator[Row]:
    found = {name: _estimated(evidence.arm(name).tally(measure)) for name in experiment.arms}
    for name, one in found.items():
        if one is not None:
            first = None if name == experiment.first else found[experiment.first]
            yield msgspec.structs.replace(_row(evidence.arm(name), measure, one, first, looks), arm=name)


def _row(arm: ArmEvidence, measure: Measure, one: Estimate, first: Estimate | None, looks: Looks) -> Row:
    """Without the arm's name."""
    spread = arm.spreads.get(measure)
    missing = _missing(one) or ("" if first is None else _missing(first))
    row = Row(
        measure=measure,
        arm="",
        count=round(one.count),
        value=math.exp(one.value) if measure in _TIMES else one.value,
        interval=None if _missing(one) else _interval(measure, one, looks),
        median=spread.quantile(0.5) if spread is not None else None,
        p95=spread.quantile(0.95) if spread is not None else None,
        missing=missing,
    )
    return row if first is None else _compared(row, one, first, looks)


def _interval(measure: Measure, one: Estimate, looks: Looks) -> Interval:
    widening = looks.widening(one.count)
    if measure == "errors":
        return share_interval(one, widening)
    found = around(one.value, one.variance, widening)
    return Interval(math.exp(found.low), math.exp(found.high)) if measure in _TIMES else found


def _compared(row: Row, one: Estimate, first: Estimate, looks: Looks) -> Row:
    """Means that are 0 have no proportion."""
    kind: Difference = "points"
    if row.measure == "errors":
        one, first = smoothed(one), smoothed(first)
    elif row.measure in _MEANS:
        if one.value <= 0 or first.value <= 0:
            return row
        one, first, kind = _logarithm(one), _logarithm(first), "times"
    elif row.measure in _TIMES:
        kind = "times"
    difference, variance = one.value - first.value, one.variance + first.variance
    changed = msgspec.structs.replace(
        row, kind=kind, difference=math.exp(difference) if kind == "times" else difference
    )
    if row.missing or variance <= 0:
        return changed
    count = one.count + first.count
    found = around(difference, variance, looks.widening(count))
    interval = Interval(math.exp(found.low), math.exp(found.high)) if kind == "times" else found
    p_value = looks.p_value(count, difference / math.sqrt(variance))
    return msgspec.structs.replace(changed, difference_interval=interval, p_value=p_value)


def _logarithm(one: Estimate) -> Estimate:
    """Of the mean; its variance by the delta method."""
    return Estimate(math.log(one.value), one.variance / one.value**2, one.count, one.buckets)


def _paired(
    measure: Literal["errors", "time_to_first_token", "time_per_output_token", "same"], one: Estimate, looks: Looks
) -> Paired:
    times, missing, widening = measure in _TIMES, _missing(one), looks.widening(one.count)
    found = None if missing else share_interval(one, widening) if measure == "same" else None
    if not missing and measure != "same":
        found = around(one.value, max(one.variance, _least_variance(measure, one)), widening)
        found = Interval(math.exp(found.low), math.exp(found.high)) if times else found
    tested = not missing and measure != "same" and one.variance > 0
    return Paired(
        measure=measure,
        count=round(one.count),
        difference=math.exp(one.value) if times else one.value,
        interval=found,
        p_value=looks.p_value(one.count, one.value / math.sqrt(one.variance)) if tested else None,
        missing=missing,
    )


def _least_variance(measure: str, one: Estimate) -> float:
    """Pairs that never differed could still have: as if one of them had, once this way and once that."""
    return 2 / (one.count + 2) ** 2 if measure == "errors" else 0.0


def _estimated(tally: Tally) -> Estimate | None:
    return estimate(tally.counts, tally.sums)


def _missing(one: Estimate) -> str:
    """What there is too little of, or ""."""
    if one.count < FEW:
        return f"{one.count:.0f} of {FEW} observations"
    return "" if one.buckets >= FEW_BUCKETS else "too few tenants, users or sessions"


def _warnings(experiment: Experiment, evidence: Evidence) -> Iterator[str]:
    """Arms that get other shares than they should tell of requests that are lost on the way, and not by chance."""
    whole = sum(experiment.arms.values())
    looks = Looks(experiment.planned, _STRAY_CONFIDENCE)
    tallies = {name: evidence.arm(name).tally("errors").counts for name in experiment.arms}
    counts = Tally()
    for tally in tallies.values():
        for bucket, count in tally.items():
            counts.add(bucket, 0.0, count)
    for name, tally in tallies.items():
        share = estimate(counts.counts, tally)
        if share is None or _missing(share):
            continue
        wanted, found = experiment.arms[name] / whole, around(share.value, share.variance, looks.widening(share.count))
        if not found.low <= wanted <= found.high:
            yield (
                f"{name} got {share.value:.1%} of the requests, by its weight it should be {wanted:.1%}: "
                "find out why before you trust the comparison"
            )
