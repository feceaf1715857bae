"""How well backends suit a call. A score is a pure function: one number in [0, 1] for each candidate."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np


@dataclass(slots=True, eq=False)
class Candidate:
    """A backend as the decision sees it.

    `seed`: 32 bits, the same in all gateways. `tokens` are in flight; `unit` is the load that one of them makes: one
    over what runs there at the same time. `ramp`: in ]0, 1], below 1 after a recovery. `last`: number of the decision
    that chose it last. `adapters`: checksums of those in its engine's memory.
    """

    id: str
    seed: int
    unit: float
    tokens: int = 0
    ramp: float = 1.0
    last: int = 0
    adapters: frozenset[str] = frozenset()


@dataclass(slots=True)
class Ask:
    """A call as the decision sees it. `session`: a hash of whose it is, 32 bits.

    `chain`: hashes of its prompt's blocks. `prompt`: length of the prompt in blocks, those not compared included.
    `held`: how many of its first blocks each backend is thought to have. `loads`: what each candidate's would be with
    this call. `adapter`: checksum of the one it wants.
    """

    cost: int
    session: int | None = None
    chain: Sequence[int] = ()
    prompt: int = 0
    held: Mapping[str, int] = field(default_factory=dict)
    loads: Sequence[float] = ()
    adapter: str | None = None


class Field(list[Candidate]):
    """All candidates of a decision, with what follows from who they are: made anew only when others take part.

    `places`: by id. `seeds`: uint32 [candidates].
    """

    def __init__(self, candidates: Sequence[Candidate] = ()) -> None:
        super().__init__(candidates)
        self.places = {one.id: place for place, one in enumerate(candidates)}
        self.seeds = np.array([one.seed for one in candidates], dtype=np.uint32)


Score = Callable[[Ask, Field], Sequence[float]]
Affinity = Callable[[Ask, Field], Mapping[int, float]]
# Makes ranks of a session and a backend: an odd number, so that no two products have the same rest.
_ODD = np.uint32(0x9E3779B1)


def load(ask: Ask, field: Field) -> Sequence[float]:
    """1 for the least loaded; 0.5 for one with twice as much."""
    least = min(ask.loads)
    return [least / one for one in ask.loads]


def prefix(ask: Ask, field: Field) -> Mapping[int, float]:
    """Share of the prompt that need not be computed again."""
    places, whole = field.places, ask.prompt
    return {places[backend]: blocks / whole for backend, blocks in ask.held.items() if backend in places}


def session(ask: Ask, field: Field) -> Mapping[int, float]:
    """1 for one backend, the same for each call of a session (the highest of all ranks).

    When backends come or go, only the sessions of those move.
    """
    if ask.session is None:
        return {}
    ranks = (field.seeds ^ np.uint32(ask.session)) * _ODD
    return {int(ranks.argmax()): 1.0}


def adapter(ask: Ask, field: Field) -> Mapping[int, float]:
    """1 wherever it is loaded; while it is nowhere, for one backend, the same in all gateways, which will load it."""
    if ask.adapter is None:
        return {}
    if loaded := {place: 1.0 for place, one in enumerate(field) if ask.adapter in one.adapters}:
        return loaded
    ranks = (field.seeds ^ np.uint32(zlib.crc32(ask.adapter.encode()))) * _ODD
    return {int(ranks.argmax()): 1.0}


# Of every candidate.
SCORES: Final[Mapping[str, Score]] = {"load": load}
# Of those, by their place, that are not 0. Affinities give way on a backend with more than its share.
AFFINITIES: Final[Mapping[str, Affinity]] = {"prefix": prefix, "session": session, "adapter": adapter}
SCORERS: Final = (*SCORES, *AFFINITIES)


def crowded(ask: Ask, field: Field, bound: float, free: int) -> Callable[[int], bool]:
    """Tells of a place whether it has more than `bound` × the mean load, and more than `free` tokens."""
    limit = bound * sum(ask.loads) / len(field)
    return lambda place: ask.loads[place] > limit and field[place].tokens > free
