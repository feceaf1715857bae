"""Whom to preempt, and what it cost: the decisions of the preemptive scheduler, without the engine.

A waiting request takes the slot, or the KV blocks, of running ones that are less urgent. The victim keeps its tokens
and its grammar and goes on when there is room; after `MAX_PREEMPTIONS` it is left in peace until its end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

MAX_PREEMPTIONS = 2
# A member of vLLM's scheduler statistics, a dictionary from names to numbers: it carries ours out of the engine's
# process. vLLM writes into it, and its loggers read it, in the front end, after ours have been taken out.
PREEMPTION_CARRIER = "waiting_lora_adapters"


@dataclass(frozen=True, slots=True)
class Running:
    """A running request. `priority`: 0 is the most urgent; `arrival`: seconds, on the clock of all requests.

    `preemptions`: those behind it; `blocks`: KV blocks that nobody else uses and that its pause would free.
    """

    id: str
    priority: int
    arrival: float
    preemptions: int
    blocks: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """The most urgent waiting request, and what it lacks; nothing lacking is written as 0 or less."""

    priority: int
    slots: int
    blocks: int


def choose_victims(running: Sequence[Running], candidate: Candidate) -> list[Running]:
    """The requests to pause for the candidate; none when it lacks nothing, or could not start even so.

    Only less urgent requests are paused, the least urgent first, of one class the last to come; none of them in vain.
    """
    victims: list[Running] = []
    eligible = [one for one in running if one.priority > candidate.priority and one.preemptions < MAX_PREEMPTIONS]
    for one in sorted(eligible, key=lambda one: (one.priority, one.arrival), reverse=True):
        if _suffices(victims, candidate):
            break
        victims.append(one)
    if not _suffices(victims, candidate):
        return []
    for one in reversed(list(victims)):
        rest = [other for other in victims if other is not one]
        if _suffices(rest, candidate):
            victims = rest
    return victims


def _suffices(victims: Sequence[Running], candidate: Candidate) -> bool:
    return len(victims) >= candidate.slots and sum(one.blocks for one in victims) >= candidate.blocks


@dataclass(frozen=True, slots=True)
class PreemptionStats:
    """What preemptions cost. `paused_us`: microseconds that requests did not run in between.

    Of the tokens whose KV a paused request had, `reused_tokens` were found again and `recomputed_tokens` were not.
    """

    preemptions: int = 0
    paused_us: int = 0
    recomputed_tokens: int = 0
    reused_tokens: int = 0

    def __add__(self, other: "PreemptionStats") -> "PreemptionStats":
        return PreemptionStats(
            preemptions=self.preemptions + other.preemptions,
            paused_us=self.paused_us + other.paused_us,
            recomputed_tokens=self.recomputed_tokens + other.recomputed_tokens,
            reused_tokens=self.reused_tokens + other.reused_tokens,
        )

    def to_wire(self) -> dict[str, int]:
        """Members for a dictionary that others use as well; nothing for what is 0."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {_WIRE_PREFIX + name: value for name, value in values.items() if value}

    @classmethod
    def take_from_wire(cls, wire: dict[str, int]) -> "PreemptionStats":
        """Remove from `wire` what `to_wire` put there."""
        return cls(**{name: wire.pop(_WIRE_PREFIX + name, 0) for name in cls.__slots__})


_WIRE_PREFIX = "trireme_"


@dataclass(slots=True)
class PauseLedger:
    """Who is paused, since when (seconds, monotonic) and with how many computed tokens; and what that sums up to."""

    _paused: dict[str, tuple[float, int]] = field(default_factory=dict)
    _stats: PreemptionStats = PreemptionStats()

    @property
    def paused(self) -> list[str]:
        return list(self._paused)

    def pause(self, request: str, now: float, computed_tokens: int) -> None:
        self._paused[request] = (now, computed_tokens)
        self._stats += PreemptionStats(preemptions=1)

    def resume(self, request: str, now: float, cached_tokens: int) -> None:
        """`cached_tokens`: those that need not be computed. They may be more than the request ever had computed."""
        since, computed = self._paused.pop(request)
        reused = min(computed, cached_tokens)
        self._stats += PreemptionStats(
            paused_us=round(1e6 * (now - since)), reused_tokens=reused, recomputed_tokens=computed - reused
        )

    def end(self, request: str, now: float) -> None:
        """The request is over, paused or not; nothing is computed again."""
        since, _ = self._paused.pop(request, (now, 0))
        self._stats += PreemptionStats(paused_us=round(1e6 * (now - since)))

    def take(self) -> PreemptionStats:
        """Everything since the last call. Pauses count when they end."""
        stats, self._stats = self._stats, PreemptionStats()
        return stats
