"""What a routing decision costs, and what the strategies make of conversations: a simulation on a clock of its own.

Eight backends, each with a prefix cache of its own and room for so many requests at a time; users talk in several turns
below a few shared system prompts. Prefill takes its time by the tokens that are not in the cache, decoding by those of
the answer.
"""

import heapq
import random
import statistics
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

from benchmarks.report import machine, publish, table
from gateway.routing.member import seed_of
from gateway.routing.prefix import chain_of
from gateway.routing.scoring import Ask, Candidate
from gateway.routing.settings import RoutingSettings
from gateway.routing.strategies import STRATEGIES, Strategy, build_strategy

DECISION_GOAL_US = 50.0
HITS_GOAL = 2.0
IMBALANCE_GOAL = 1.25
BLOCK = 64
VOCABULARY = 50_000


@dataclass(frozen=True)
class Traffic:
    """`rate`: new conversations a second; `pause_s`: mean time that a user reads and writes. Lengths in tokens."""

    conversations: int = 600
    rate: float = 4.0
    systems: int = 200
    system_tokens: tuple[int, int] = (512, 2048)
    turns: tuple[int, int] = (2, 8)
    question_tokens: tuple[int, int] = (32, 256)
    answer_tokens: tuple[int, int] = (32, 384)
    pause_s: float = 20.0
    seed: int = 7


@dataclass(frozen=True)
class Servers:
    """`cache_tokens`: of each prefix cache; prefill and decoding in tokens a second, decoding for each request."""

    backends: int = 8
    slots: int = 16
    cache_tokens: int = 60_000
    prefill: float = 8_000.0
    decode: float = 40.0


@dataclass(frozen=True)
class Result:
    """`hits`: tokens that were not computed again; `imbalance`: work of the busiest backend over the mean."""

    prompt_tokens: int
    hits: int
    imbalance: float
    first_token_s: Sequence[float]

    def percentile(self, share: float) -> float:
        """Seconds to the first token."""
        ordered = sorted(self.first_token_s)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass
class _Talk:
    session: int
    ids: list[int]
    turns: int
    dice: random.Random


@dataclass(order=True)
class _Event:
    at: float
    number: int
    what: Callable[[float], None] = field(compare=False)


class _Backend:
    """One prefill at a time, `slots` requests altogether; the cache forgets what was not used for the longest time."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._blocks: OrderedDict[int, None] = OrderedDict()
        self.running = 0
        self.waiting: deque[Callable[[float], None]] = deque()
        self.prefill_free_at = 0.0
        self.work = 0.0

    def cached(self, chain: Sequence[int]) -> int:
        """Tokens of it that are there; from now on, all are."""
        hit = 0
        for block in chain:
            if block not in self._blocks:
                break
            hit += BLOCK
        for block in reversed(chain):
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) * BLOCK > self._servers.cache_tokens:
            self._blocks.popitem(last=False)
        return hit


class Simulation:
    """`strategy` decides; what it knows of the caches is what it has sent there, as in the gateway."""

    def __init__(self, strategy: Strategy, traffic: Traffic, servers: Servers) -> None:
        self._strategy = strategy
        self._traffic = traffic
        self._servers = servers
        self._random = random.Random(traffic.seed)
        self._backends = [_Backend(servers) for _ in range(servers.backends)]
        self._candidates = [
            Candidate(str(number), seed_of(str(number)), 1 / servers.cache_tokens) for number in range(servers.backends)
        ]
        self._events: list[_Event] = []
        self._numbers = count()
        self._prompt_tokens = 0
        self._hits = 0
        self._first: list[float] = []

    def run(self) -> Result:
        for talk, at in self._talks():
            self._later(at, lambda now, talk=talk: self._turn(talk, now))  # type: ignore[misc]
        while self._events:
            event = heapq.heappop(self._events)
            event.what(event.at)
        work = [backend.work for backend in self._backends]
        return Result(self._prompt_tokens, self._hits, max(work) / statistics.mean(work), self._first)

    def _talks(self) -> Iterator[tuple[_Talk, float]]:
        """Popular system prompts are used more often: the second half as often as the first, and so on."""
        traffic, dice = self._traffic, self._random
        systems = [_tokens(dice, traffic.system_tokens) for _ in range(traffic.systems)]
        weights = [1 / (rank + 1) for rank in range(traffic.systems)]
        at = 0.0
        for session in range(traffic.conversations):
            at += dice.expovariate(traffic.rate)
            (system,) = dice.choices(systems, weights)
            talk = random.Random(f"{traffic.seed} {session}")
            yield _Talk(talk.getrandbits(32), list(system), talk.randint(*traffic.turns), talk), at

    def _turn(self, talk: _Talk, now: float) -> None:
        talk.ids += _tokens(talk.dice, self._traffic.question_tokens)
        talk.turns -= 1
        answer = _tokens(talk.dice, self._traffic.answer_tokens)
        chain = chain_of(talk.ids, BLOCK, len(talk.ids))
        cost = len(talk.ids) + len(answer)
        ask = Ask(cost, talk.session, chain[:64], max(1, len(chain)))
        chosen = self._strategy.pick(ask, self._candidates)
        chosen.tokens += cost
        backend = self._backends[int(chosen.id)]
        arrived = now

        def begin(now: float) -> None:
            backend.running += 1
            hit = backend.cached(chain)
            self._prompt_tokens += len(talk.ids)
            self._hits += hit
            backend.work += len(talk.ids) - hit + len(answer) * self._servers.prefill / self._servers.decode / 16
            start = max(now, backend.prefill_free_at)
            first = backend.prefill_free_at = start + (len(talk.ids) - hit) / self._servers.prefill
            self._first.append(first - arrived)
            self._later(first + len(answer) / self._servers.decode, end)

        def end(now: float) -> None:
            backend.running -= 1
            chosen.tokens -= cost
            if backend.waiting:
                backend.waiting.popleft()(now)
            talk.ids += answer
            if talk.turns:
                self._later(now + talk.dice.expovariate(1 / self._traffic.pause_s), lambda at: self._turn(talk, at))

        if backend.running < self._servers.slots:
            begin(now)
        else:
            backend.waiting.append(begin)

    def _later(self, at: float, what: Callable[[float], None]) -> None:
        heapq.heappush(self._events, _Event(at, next(self._numbers), what))


def _tokens(dice: random.Random, length: tuple[int, int]) -> list[int]:
    return [dice.randrange(VOCABULARY) for _ in range(dice.randint(*length))]


def simulate(name: str, traffic: Traffic = Traffic(), servers: Servers = Servers()) -> Result:
    """One strategy with its default settings; the random numbers are the same for each."""
    blocks = servers.cache_tokens // BLOCK
    settings = RoutingSettings(strategy=name, prefix_blocks=blocks)
    return Simulation(build_strategy(settings), traffic, servers).run()


def decision_us(name: str, backends: int = 64, prompt_tokens: int = 1024, decisions: int = 3000) -> list[float]:
    """Processor time of each decision in microseconds, hashing of the prompt included."""
    dice = random.Random(3)
    strategy = build_strategy(RoutingSettings(strategy=name))
    candidates = [Candidate(str(one), seed_of(str(one)), 1e-5) for one in range(backends)]
    prompts = [[dice.randrange(VOCABULARY) for _ in range(prompt_tokens)] for _ in range(100)]
    found = []
    for number in range(decisions):
        ids = prompts[number % len(prompts)]
        began = time.thread_time()
        ask = Ask(prompt_tokens, dice.getrandbits(32), chain_of(ids, BLOCK, 64), prompt_tokens // BLOCK)
        strategy.pick(ask, candidates)
        found.append(1e6 * (time.thread_time() - began))
        dice.choice(candidates).tokens = dice.randrange(20_000)
    return found


SCENES = {
    "200 system prompts, more than one cache holds": Traffic(),
    "12 system prompts, which every cache can hold": Traffic(systems=12),
}


def run(write: bool) -> bool:
    """Measure, print and (with `write`) record; returns whether the goals were met."""
    scenes = {scene: {name: simulate(name, traffic) for name in STRATEGIES} for scene, traffic in SCENES.items()}
    times = {name: sorted(decision_us(name)) for name in STRATEGIES}
    first = next(iter(scenes.values()))
    ours, turns, traffic, servers = first["prefix"], first["round_robin"], Traffic(), Servers()
    median = statistics.median(times["prefix"])
    good = ours.hits >= HITS_GOAL * turns.hits and ours.imbalance <= IMBALANCE_GOAL and median <= DECISION_GOAL_US
    text = (
        f"`python -m benchmarks routing` · {machine()}\n\n"
        f"Simulated: {traffic.conversations} conversations of {traffic.turns[0]} to {traffic.turns[1]} turns on "
        f"{servers.backends} backends with prefix caches of {servers.cache_tokens:,} tokens. Goals: in the first scene "
        f"`prefix` finds at least {HITS_GOAL:g} × the tokens of `round_robin` at an imbalance (work of the busiest "
        f"backend over the mean) of at most {IMBALANCE_GOAL:g}, and it decides among 64 backends in "
        f"{DECISION_GOAL_US:g} µs of processor time, the hashing of a prompt of 1024 tokens included: "
        f"{'met' if good else 'not met'}.\n\n"
        + table(
            ["scene", "strategy", "tokens found in a cache", "imbalance", "first token p50 / p99 s"],
            [_row(scene, name, result) for scene, results in scenes.items() for name, result in results.items()],
        )
        + "\n\n"
        + table(["strategy", "decision p50 / p90 µs"], [_times(name, found) for name, found in times.items()])
        + "\n"
    )
    publish("routing", text, write=write)
    return good


def _row(scene: str, name: str, result: Result) -> list[str]:
    return [
        scene,
        f"`{name}`",
        f"{result.hits:,} of {result.prompt_tokens:,} ({result.hits / result.prompt_tokens:.0%})",
        f"{result.imbalance:.2f}",
        f"{result.percentile(0.5):.3f} / {result.percentile(0.99):.3f}",
    ]


def _times(name: str, times: Sequence[float]) -> list[str]:
    return [f"`{name}`", f"{statistics.median(times):.0f} / {times[int(0.9 * len(times))]:.0f}"]


if __name__ == "__main__":
    sys.exit(0 if run(write=False) else 1)
