"""Blocks of requests → the tables of the section `identity`."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.chats import MAX_TOKENS, Block, Way
from benchmarks.report import machine, table

LEVELS: Final = (1, 16)
GOAL_MS: Final = 0.5
GOAL_TRIPS: Final = 2.0

Blocks = dict[tuple[int, Way], list[Block]]


@dataclass(frozen=True)
class Peer:
    """A proxy: straight to its upstream, with a key without limits, with one with all of them, with a tight one."""

    name: str
    direct: Way
    plain: Way
    limited: Way
    tight: Way

    @property
    def ways(self) -> tuple[Way, Way, Way]:
        return self.direct, self.plain, self.limited


@dataclass(frozen=True)
class Figures:
    """Of one way at one level; milliseconds, all but the first two for one request. Medians of rounds, but for sums.

    `added`: to the direct way's median. `auth`, `limits`: in the gateway's own words.
    """

    rate: float
    p50: float
    added: float
    cpu: float
    valkey_cpu: float
    round_trips: float
    auth: float
    limits: float


def report(peers: Sequence[Peer], blocks: Blocks, requests: int, rounds: int, version: str) -> tuple[str, bool]:
    """The text, and whether Trireme's goals were met."""
    found = {
        (peer.name, level, way.name): figures(blocks[level, way], blocks[level, peer.direct])
        for peer in peers
        for level in LEVELS
        for way in peer.ways
    }
    ours, theirs = peers
    limits = {peer.name: p50_difference(blocks[1, peer.limited], blocks[1, peer.plain]) for peer in peers}
    limited = found[ours.name, 1, "limits"]
    cost = limits[ours.name] + limited.auth
    met = cost <= GOAL_MS and round(limited.round_trips, 1) <= GOAL_TRIPS
    text = (
        f"`python -m benchmarks identity --requests {requests}` · {machine()}\n\n"
        f"Whole chats of {MAX_TOKENS} tokens, {requests} of each way and level in {rounds} interleaved rounds;\n"
        f"medians of the rounds; LiteLLM {version}. Identity and limits add **{cost:.2f} ms** to a request:\n"
        f"{limits[ours.name]:.2f} ms between a key with and one without limits, {limited.auth:.2f} ms for the key "
        f"itself.\n"
        f"By the gateway's own clock the reservation takes {limited.limits:.2f} ms. Settlement and ledger follow the "
        f"answer,\nand meet the next request of the stream. The ledger has no switch: it is in both.\n"
        f"Goals: added p50 ≤ {GOAL_MS} ms, at most {GOAL_TRIPS:.0f} round trips: {'met' if met else 'not met'}.\n\n"
        f"{table(*ways_table(peers, found))}\n\n{table(*ratios_table(ours, theirs, found, limits))}\n"
    )
    return text, met


def figures(blocks: Sequence[Block], direct: Sequence[Block]) -> Figures:
    requests = sum(len(block.latencies) for block in blocks)
    auth, limits = map(statistics.median, zip(*(stages for block in blocks for stages in block.stages), strict=True))
    return Figures(
        rate=statistics.median(len(block.latencies) / block.seconds for block in blocks),
        p50=1000 * statistics.median(p50(block) for block in blocks),
        added=p50_difference(blocks, direct),
        cpu=1000 * sum(block.costs.cpu for block in blocks) / requests,
        valkey_cpu=1000 * sum(block.costs.valkey_cpu for block in blocks) / requests,
        round_trips=sum(block.costs.round_trips for block in blocks) / requests,
        auth=auth,
        limits=limits,
    )


def p50(block: Block) -> float:
    return statistics.median(block.latencies)


def p50_difference(blocks: Sequence[Block], others: Sequence[Block]) -> float:
    """Milliseconds: the median of the rounds' differences."""
    return 1000 * statistics.median(p50(one) - p50(other) for one, other in zip(blocks, others, strict=True))


Found = Mapping[tuple[str, int, str], Figures]


def ways_table(peers: Sequence[Peer], found: Found) -> tuple[list[str], list[list[str]]]:
    header = ["streams", "way", "requests/s", "p50 ms", "added p50 ms", "CPU ms", "Valkey CPU ms", "Valkey round trips"]
    rows = []
    for level in LEVELS:
        for peer in peers:
            for way in peer.ways:
                one = found[peer.name, level, way.name]
                row = [str(level), f"{peer.name}, {way.name}", f"{one.rate:.0f}", f"{one.p50:.2f}"]
                costs = [f"{one.added:.2f}", f"{one.cpu:.2f}", f"{one.valkey_cpu:.3f}", f"{one.round_trips:.1f}"]
                rows.append(row + (costs if way is not peer.direct else [""] * len(costs)))
    return header, rows


def ratios_table(
    ours: Peer, theirs: Peer, found: Found, limits: Mapping[str, float]
) -> tuple[list[str], list[list[str]]]:
    """All with limits."""
    few, many = LEVELS

    def of(name: str, level: int, value: Callable[[Figures], float]) -> tuple[str, float, float]:
        return name, value(found[ours.name, level, "limits"]), value(found[theirs.name, level, "limits"])

    lines = [
        ("limits alone, added p50 ms, 1 stream", limits[ours.name], limits[theirs.name]),
        of(f"whole proxy, added p50 ms, {few} stream", few, lambda one: one.added),
        of(f"whole proxy, added p50 ms, {many} streams", many, lambda one: one.added),
        of(f"proxy's CPU ms a request, {many} streams", many, lambda one: one.cpu),
        of(f"ms between answers, {many} streams", many, lambda one: 1000 / one.rate),
    ]
    rows = [[name, f"{mine:.2f}", f"{other:.2f}", ratio(other, mine)] for name, mine, other in lines]
    return ["with limits", ours.name, theirs.name, f"{theirs.name} ÷ {ours.name}"], rows


def ratio(other: float, mine: float) -> str:
    """A difference that is lost in the noise can be negative, and has no ratio."""
    return f"**{other / mine:.1f}**" if mine > 0 else "-"
