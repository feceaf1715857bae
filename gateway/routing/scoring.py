"""How well backends suit a call. A score is a pure function: one number in [0, 1] for each candidate."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final


@dataclass(slots=True, eq=False)
class Candidate:
    """A backend as the decision sees it.

    `seed`: 32 bits, the same in all gateways. `tokens` are in flight; `unit` is the load that one of them makes: one
    over what runs there at the same time. `ramp`: in ]0, 1], below 1 after a recovery. `last`: number of the decision
    that chose it last.
    """

    id: str
    seed: int
    unit: float
    tokens: int = 0
    ramp: float = 1.0
    last: int = 0


@dataclass(slots=True)
class Ask:
    """A call as the decision sees it. `session`: a hash of whose it is, 32 bits.

    `chain`: hashes of its prompt's blocks. `prompt`: length of the prompt in blocks, those not compared included.
    `held`: how many of its first blocks each backend is thought to have. `loads`: what each candidate's would be with
    this call.
    """

    cost: int
    session: int | None = None
    chain: Sequence[int] = ()
    prompt: int = 0
    held: Mapping[str, int] = field(default_factory=dict)
    loads: Sequence[float] = ()


Score = Callable[[Ask, Sequence[Candidate]], Sequence[float]]
Affinity = Callable[[Ask, Sequence[Candidate]], Mapping[int, float]]
# Makes ranks of a session and a backend: an odd number, so that no two products have the same rest.
_ODD = 0x9E3779B1
_MASK = 0xFFFFFFFF


def load(ask: Ask, candidates: Sequence[Candidate]) -> Sequence[float]:
    """1 for the least loaded; 0.5 for one with twice as much."""
    least = min(ask.loads)
    return [least / one for one in ask.loads]


def prefix(ask: Ask, candidates: Sequence[Candidate]) -> Mapping[int, float]:
    """Share of the prompt that need not be computed again."""
    held, whole = ask.held, ask.prompt
    if not held:
        return {}
    return {place: held[one.id] / whole for place, one in enumerate(candidates) if one.id in held}


def session(ask: Ask, candidates: Sequence[Candidate]) -> Mapping[int, float]:
    """1 for one backend, the same for each call of a session (the highest of all ranks).

    When backends come or go, only the sessions of those move.
    """
    key = ask.session
    if key is None:
        return {}
    ranks = [(key ^ one.seed) * _ODD & _MASK for one in candidates]
    return {ranks.index(max(ranks)): 1.0}


# Of every candidate.
SCORES: Final[Mapping[str, Score]] = {"load": load}
# Of those, by their place, that are not 0. Affinities give way on a backend with more than its share.
AFFINITIES: Final[Mapping[str, Affinity]] = {"prefix": prefix, "session": session}
SCORERS: Final = (*SCORES, *AFFINITIES)


def crowded(ask: Ask, candidates: Sequence[Candidate], bound: float, free: int) -> Callable[[int], bool]:
    """Tells of a place whether it has more than `bound` × the mean load, and more than `free` tokens."""
    limit = bound * sum(ask.loads) / len(candidates)
    return lambda place: ask.loads[place] > limit and candidates[place].tokens > free
