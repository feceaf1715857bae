"""Are experiments as sure as they say, do they find what there is, and what does mirroring cost a client?

The intervals are the control plane's own; the experiments are on paper: requests of units (sessions, tenants) that have
something in common, looked at again and again. Mirroring is measured through a whole stack with the scripted engine,
with a second Triton for the copies on the same machine.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import log, sqrt
from pathlib import Path
from typing import Final

import aiohttp
import numpy as np
from numpy.typing import NDArray
from redis.asyncio import Redis

from benchmarks.report import machine, publish, table
from control_plane.experiments.commands import TrialCommands
from control_plane.experiments.evidence import Evidence, Measure, Tally
from control_plane.experiments.results import Row, results
from control_plane.experiments.state import Experiment
from control_plane.experiments.statistics import BUCKETS, estimate
from control_plane.experiments.store import TrialStore
from control_plane.routing import RoutingDocument
from gateway.auth.store import KeyStore
from gateway.auth.tenants import TenantStore
from gateway.core.snapshot import Arm
from trireme.stack import EmbeddedStack, isolated_settings

PLAYED: Final = 300
MIRRORED: Final = 1000
REQUESTS: Final = 10_000
LOOKS: Final = 60
# Goals: experiments in which some interval was wrong; differences found by the end; milliseconds added to a request.
WRONG: Final = 0.05
FOUND: Final = 0.9
ADDED_MS: Final = 0.2
BLOCK: Final = 50
HEADER: Final = (
    "experiment",
    "measure",
    "some interval wrong",
    "one-look intervals of requests",
    "found",
    "found after, median",
)


@dataclass(frozen=True)
class World:
    """`units`: of each arm. `alike`: share of the variance that requests of a unit have in common.

    `difference`: of the second arm, as a factor of times and in points of shares.
    """

    name: str
    units: int
    alike: float
    measure: Measure
    difference: float

    @property
    def equal(self) -> bool:
        return self.difference == (1.0 if self.measure == "time_to_first_token" else 0.0)


WORLDS: Final = (
    World("equal, one request a session", REQUESTS, 0.0, "time_to_first_token", 1.0),
    World("equal, 2000 sessions", 2000, 0.3, "time_to_first_token", 1.0),
    World("equal, 60 tenants", 60, 0.3, "time_to_first_token", 1.0),
    World("equal, 2000 sessions", 2000, 0.3, "errors", 0.0),
    World("equal, 2000 sessions", 2000, 0.3, "score", 0.0),
    World("20 % slower, 2000 sessions", 2000, 0.3, "time_to_first_token", 1.2),
    World("2 points more errors, 2000 sessions", 2000, 0.0, "errors", 0.02),
    World("score 5 points better, 2000 sessions", 2000, 0.0, "score", 0.05),
)


@dataclass(frozen=True)
class Played:
    """One experiment. `wrong`: an interval was; `naive`: one for one look at requests was; `found`: after how many."""

    wrong: bool
    naive: bool
    found: int | None


def run(played: int, requests: int, *, write: bool) -> bool:
    """Simulate, measure, print and (with `write`) record; returns whether the goals were met."""
    rows, sure = [], True
    for number, world in enumerate(WORLDS):
        ended = [play(world, np.random.default_rng([number, one])) for one in range(played)]
        row, good = _judged(world, ended)
        rows.append(row)
        sure = sure and good
    cost_rows, free = asyncio.run(_mirroring(requests))
    header = ("requests", "not copied p50 / p99 ms", "copied p50 / p99 ms", "added p50 ms")
    goal = (
        f"Goals: some interval wrong in at most {WRONG:.0%} of the experiments, at least {FOUND:.0%} of the "
        f"differences found: {'met' if sure else 'not met'}."
    )
    text = (
        f"`python -m benchmarks experiments` · {machine()}\n\n{_assumed(played)}\n\n{goal}\n\n"
        f"{table(HEADER, rows)}\n\n{_setting(requests)} Goal: at most {ADDED_MS} ms added at the median where the copy "
        f"ends in a pause: {'met' if free else 'not met'}.\n\n{table(header, cost_rows)}\n"
    )
    publish("experiments", text, write=write)
    return sure and free


def _assumed(played: int) -> str:
    return (
        f"Simulated, {played} experiments a line, each with {REQUESTS} requests of each of two arms, looked at {LOOKS} "
        "times from the first hundred on; planned for 20000 requests at 95 %. Lognormal times to first token, median "
        "300 ms, spread of the logarithm 0.6; 1 % of errors; a score of 0 or 1 for every request, mean 0.7."
    )


def _setting(requests: int) -> str:
    return (
        f"Mirroring every request of one tenant and none of another, {requests} each, in blocks of {BLOCK}, one at a "
        "time; scripted engine, 16 tokens; the copies' Triton is on the same machine."
    )


def play(world: World, dice: np.random.Generator) -> Played:
    """Look again and again, to the end."""
    values, units = zip(*(_drawn(world, arm, dice) for arm in range(2)), strict=True)
    wrong, naive, found = False, False, None
    for look in np.unique(np.geomspace(100, REQUESTS, LOOKS).astype(int)):
        evidence = Evidence()
        for name, of, where in zip("ab", values, units, strict=True):
            evidence.arm(name).tallies[world.measure] = tally(of[:look], where[:look])
        row = _second(evidence, world.measure)
        naive = naive or _naively_wrong(world, [of[:look] for of in values])
        interval = row.difference_interval
        if interval is None:
            continue
        wrong = wrong or not interval.low <= world.difference <= interval.high
        if found is None and (row.p_value or 1.0) < WRONG:
            found = int(2 * look)
    return Played(wrong, naive, found)


def tally(values: NDArray[np.float64], buckets: NDArray[np.int64]) -> Tally:
    """As the control plane would have summed them up."""
    counts = np.bincount(buckets, minlength=BUCKETS)
    sums = np.bincount(buckets, weights=values, minlength=BUCKETS)
    filled = [int(one) for one in np.flatnonzero(counts)]
    return Tally({one: float(counts[one]) for one in filled}, {one: float(sums[one]) for one in filled})


def _drawn(world: World, arm: int, dice: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Values of an arm's requests, as they come, and the buckets of their units."""
    unit = dice.integers(0, world.units, REQUESTS) if world.alike else np.arange(REQUESTS) % world.units
    bucket = dice.integers(0, BUCKETS, world.units)[unit]
    common = dice.normal(0, 1, world.units)[unit]
    normal = sqrt(world.alike) * common + sqrt(1 - world.alike) * dice.normal(0, 1, REQUESTS)
    if world.measure == "time_to_first_token":
        return log(300.0 * (world.difference if arm else 1.0)) + 0.6 * normal, bucket
    share = (0.01 if world.measure == "errors" else 0.7) + (world.difference if arm else 0.0)
    limit = statistics.NormalDist().inv_cdf(share)
    return (normal < limit).astype(np.float64), bucket


def _second(evidence: Evidence, measure: Measure) -> Row:
    paper = Experiment(
        id="ex_paper",
        model="m",
        started_at=0.0,
        started_by="benchmark",
        planned=2 * REQUESTS,
        arms={"a": 50, "b": 50},
        by="session",
        before={},
    )
    return next(row for row in results(paper, evidence).rows if (row.measure, row.arm) == (measure, "b"))


def _naively_wrong(world: World, values: list[NDArray[np.float64]]) -> bool:
    """By the textbook's 95 % for one look, with every request taken for news."""
    first, second = (estimate(*_alone(one)) for one in values)
    if first is None or second is None:
        return False
    reach = 1.96 * sqrt(first.variance + second.variance)
    found = second.value - first.value
    wanted = log(world.difference) if world.measure == "time_to_first_token" else world.difference
    return abs(found - wanted) > reach


def _alone(values: NDArray[np.float64]) -> tuple[dict[int, float], dict[int, float]]:
    return dict.fromkeys(range(len(values)), 1.0), dict(enumerate(values.tolist()))


def _judged(world: World, ended: list[Played]) -> tuple[list[str], bool]:
    wrong = sum(one.wrong for one in ended) / len(ended)
    found = [one.found for one in ended if one.found is not None]
    share = len(found) / len(ended)
    good = wrong <= WRONG and (share <= WRONG if world.equal else share >= FOUND)
    row = [
        world.name,
        world.measure.replace("_", " "),
        f"**{wrong:.1%}**",
        f"{sum(one.naive for one in ended) / len(ended):.1%}",
        f"{share:.1%}",
        f"{statistics.median(found):.0f} requests" if found and not world.equal else "",
    ]
    return row, good


async def _mirroring(requests: int) -> tuple[list[list[str]], bool]:
    with _stacks() as (stack, shadow):
        plain, copied = await _prepare(stack, shadow)
        rows, met = [], True
        for name, pause_s in (("with a pause, in which the copy ends", 0.06), ("one right after the other", 0.0)):
            found: dict[str, list[float]] = {plain: [], copied: []}
            async with aiohttp.ClientSession() as session:
                for _ in range(max(1, requests // BLOCK)):
                    for key in (plain, copied):
                        found[key] += await _block(session, stack, key, pause_s)
            added = 1000 * (statistics.median(found[copied]) - statistics.median(found[plain]))
            met = met and (added <= ADDED_MS or not pause_s)
            rows.append([name, _spread(found[plain]), _spread(found[copied]), f"**{added:.2f}**"])
        return rows, met


@contextmanager
def _stacks() -> Iterator[tuple[EmbeddedStack, EmbeddedStack]]:
    """One for clients, and a Triton for copies."""
    with tempfile.TemporaryDirectory(prefix="bench-") as first, tempfile.TemporaryDirectory(prefix="bench-") as second:
        shadow = EmbeddedStack(isolated_settings(Path(second), engine="scripted"), parts={"triton"})
        parts = {"valkey", "triton", "gateway"}
        with shadow, EmbeddedStack(isolated_settings(Path(first), engine="scripted"), parts=parts) as stack:
            yield stack, shadow


async def _prepare(stack: EmbeddedStack, shadow: EmbeddedStack) -> tuple[str, str]:
    """Secrets of a tenant of whom nothing is copied, and of one of whom everything is."""
    body = {"id": "shadow", "url": shadow.triton_url, "group": "shadow"}
    headers = {"authorization": f"Bearer {stack.dev_key}"}
    async with aiohttp.ClientSession() as session:
        await (await session.post(f"{stack.gateway_url}/admin/v1/backends", json=body, headers=headers)).read()
    secrets = []
    async with Redis.from_url(stack.valkey_url) as redis:
        pepper = bytes.fromhex((stack.settings.state_dir / "pepper").read_text().strip())
        for tenant in ("plain", "copied"):
            await TenantStore(redis).create(tenant)
            _, secret = await KeyStore(redis, pepper).create(
                tenant=tenant, name="bench", scopes=frozenset({"inference"})
            )
            secrets.append(secret)
        commands = TrialCommands(TrialStore(redis), RoutingDocument(redis), "benchmark")
        arm, model = Arm(name="new", group="shadow"), stack.settings.model.name
        await commands.mirror(model, arm, 1.0, time.time(), exclude=("plain",))
    await asyncio.sleep(3.0)  # until keys and routing have arrived, and the second Triton has generated
    return secrets[0], secrets[1]


async def _block(session: aiohttp.ClientSession, stack: EmbeddedStack, key: str, pause_s: float) -> list[float]:
    """Seconds of each whole answer, but for the first few, which still meet copies of the block before."""
    body = {"model": stack.settings.model.name, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 16}
    headers, found = {"authorization": f"Bearer {key}"}, []
    for _ in range(BLOCK + 5):
        began = time.perf_counter()
        async with session.post(f"{stack.gateway_url}/v1/chat/completions", json=body, headers=headers) as response:
            response.raise_for_status()
            await response.read()
        found.append(time.perf_counter() - began)
        await asyncio.sleep(pause_s)
    return found[5:]


def _spread(seconds: list[float]) -> str:
    return f"{1000 * statistics.median(seconds):.2f} / {1000 * statistics.quantiles(seconds, n=100)[98]:.2f}"
