"""What an experiment, or a mirroring, has shown so far: bounded sums, however many requests there were."""

import math
from typing import Final, Literal
from zlib import crc32

import msgspec

from control_plane.experiments.statistics import BUCKETS

Measure = Literal["errors", "time_to_first_token", "time_per_output_token", "tokens", "price", "score"]
MEASURES: Final[tuple[Measure, ...]] = (
    "errors",
    "time_to_first_token",
    "time_per_output_token",
    "tokens",
    "price",
    "score",
)
# Bins of latencies: each is so many times as long as the one before, so that quantiles are right within 1 %
# (C. Masson, J. E. Rim & H. K. Lee, DDSketch, VLDB 2019).
_GROWTH: Final = 1.02
_LEAST_MS: Final = 0.01


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """One request of an experiment. `price`: 10⁻⁹ of the currency."""

    experiment: str
    arm: str
    unit: str
    failed: bool
    first_token_ms: float | None
    per_token_ms: float | None
    tokens: int
    price: int


class Scored(msgspec.Struct, frozen=True, kw_only=True):
    """Feedback for one. `before`: the score that it replaces."""

    experiment: str
    arm: str
    unit: str
    score: float
    before: float | None


class Run(msgspec.Struct, frozen=True):
    """As the ledger tells of an original or its copy (gateway.core.mirrored)."""

    failed: bool = False
    first_token_ms: float | None = None
    per_token_ms: float | None = None
    tokens: int = 0


class Copied(msgspec.Struct, frozen=True, kw_only=True):
    """A copy and its original. `of`: the original's id."""

    mirror: str
    of: str
    original: Run
    copy: Run
    same: bool | None
    price: int


class Tally(msgspec.Struct):
    """Observations and their sum, by bucket."""

    counts: dict[int, float] = msgspec.field(default_factory=dict)
    sums: dict[int, float] = msgspec.field(default_factory=dict)

    def add(self, bucket: int, value: float, count: float = 1.0) -> None:
        self.counts[bucket] = self.counts.get(bucket, 0.0) + count
        self.sums[bucket] = self.sums.get(bucket, 0.0) + value


class Spread(msgspec.Struct):
    """How values above 0 are distributed."""

    bins: dict[int, int] = msgspec.field(default_factory=dict)

    def add(self, value: float) -> None:
        number = round(math.log(max(value, _LEAST_MS), _GROWTH))
        self.bins[number] = self.bins.get(number, 0) + 1

    def quantile(self, share: float) -> float | None:
        wanted = share * sum(self.bins.values())
        for number, count in sorted(self.bins.items()):
            wanted -= count
            if wanted <= 0:
                return _GROWTH**number
        return None


class ArmEvidence(msgspec.Struct):
    """Sums of latencies are of their logarithms."""

    tallies: dict[Measure, Tally] = msgspec.field(default_factory=dict)
    spreads: dict[Measure, Spread] = msgspec.field(default_factory=dict)

    def add(self, seen: Observed) -> None:
        bucket = bucket_of(seen.unit)
        self.tally("errors").add(bucket, float(seen.failed))
        self._add_time("time_to_first_token", bucket, seen.first_token_ms)
        self._add_time("time_per_output_token", bucket, seen.per_token_ms)
        if not seen.failed:
            self.tally("tokens").add(bucket, seen.tokens)
            self.tally("price").add(bucket, seen.price)

    def rate(self, seen: Scored) -> None:
        """A score that replaces another one is no further observation."""
        new = seen.before is None
        self.tally("score").add(bucket_of(seen.unit), seen.score - (seen.before or 0.0), float(new))

    def tally(self, measure: Measure) -> Tally:
        return self.tallies.setdefault(measure, Tally())

    def _add_time(self, measure: Measure, bucket: int, milliseconds: float | None) -> None:
        if milliseconds is None:
            return
        self.tally(measure).add(bucket, math.log(max(milliseconds, _LEAST_MS)))
        self.spreads.setdefault(measure, Spread()).add(milliseconds)


class Evidence(msgspec.Struct):
    """By arm."""

    arms: dict[str, ArmEvidence] = msgspec.field(default_factory=dict)

    def arm(self, name: str) -> ArmEvidence:
        return self.arms.setdefault(name, ArmEvidence())


class Pairs(msgspec.Struct):
    """Copies beside their originals. Differences of latencies are of logarithms; `errors`: -1, 0 or 1.

    `failed`, `originals_failed`: how many. `tokens`, `original_tokens`: of those that both succeeded. `price`: of all.
    """

    copies: int = 0
    failed: int = 0
    originals_failed: int = 0
    tokens: int = 0
    original_tokens: int = 0
    price: int = 0
    errors: Tally = msgspec.field(default_factory=Tally)
    first_token: Tally = msgspec.field(default_factory=Tally)
    per_token: Tally = msgspec.field(default_factory=Tally)
    same: Tally = msgspec.field(default_factory=Tally)

    def add(self, seen: Copied) -> None:
        bucket, original, copy = bucket_of(seen.of), seen.original, seen.copy
        self.copies += 1
        self.price += seen.price
        self.failed += copy.failed
        self.originals_failed += original.failed
        self.errors.add(bucket, copy.failed - original.failed)
        _add_ratio(self.first_token, bucket, original.first_token_ms, copy.first_token_ms)
        _add_ratio(self.per_token, bucket, original.per_token_ms, copy.per_token_ms)
        if seen.same is not None:
            self.same.add(bucket, float(seen.same))
        if not (copy.failed or original.failed):
            self.tokens += copy.tokens
            self.original_tokens += original.tokens


def bucket_of(unit: str) -> int:
    return crc32(unit.encode()) % BUCKETS


def _add_ratio(tally: Tally, bucket: int, original: float | None, copy: float | None) -> None:
    if original is not None and copy is not None:
        tally.add(bucket, math.log(max(copy, _LEAST_MS) / max(original, _LEAST_MS)))
