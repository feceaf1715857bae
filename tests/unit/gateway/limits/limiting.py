"""A limiter with everything around it, and calls for it."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis

from gateway.core.call import Call, Caller, Model
from gateway.core.identity import Limits, Quotas
from gateway.core.limit import TimeLimit
from gateway.limits.limiter import Limiter
from gateway.limits.settings import LimitSettings
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.tasks import Tasks
from gateway.valkey.connection import Valkey, ValkeySettings
from gateway.valkey.outbox import Outbox
from gateway.valkey.wire import Wire

MODEL = Model("tiny", "generate", 4096, 0)


def call(
    *,
    limits: Limits | None = None,
    quotas: Quotas | None = None,
    tenant_limits: Limits | None = None,
    key: str = "key_1",
    prompt: int = 10,
    answer: int = 20,
) -> Call:
    """A chat of the tenant acme, counted and ready to be limited."""
    return Call(
        id="r",
        uid=secrets.token_hex(8),
        route="/v1/chat/completions",
        limit=TimeLimit(10),
        caller=Caller(
            key,
            "acme",
            frozenset(),
            limits=limits or Limits(),
            quotas=quotas or Quotas(),
            tenant_limits=tenant_limits or Limits(),
        ),
        model=MODEL,
        cost=prompt + answer,
        prompt_cost=prompt,
        answers=1,
    )


def answered(one: Call, completion: int, cached: int = 0) -> None:
    """The engine did it."""
    one.saw_tokens(completion)
    one.usage.add(one.prompt_cost, completion, cached)


@dataclass
class Limiting:
    """`learned`: tenant, model and tokens of answers. A prompt token costs 1, an answer token 2."""

    redis: Redis
    metrics: Metrics
    valkey: Valkey
    outbox: Outbox
    limiter: Limiter
    learned: list[tuple[str, str, int]] = field(default_factory=list)

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    async def reserved(self) -> dict[str, dict[bytes, bytes]]:
        """What is held anywhere in Valkey."""
        names = [name.decode() async for name in self.redis.scan_iter("trireme:*:reserved")]
        return {name: await self.redis.hgetall(name) for name in sorted(names)}

    async def active(self) -> int:
        names = [name async for name in self.redis.scan_iter("trireme:*:active")]
        return sum([await self.redis.zcard(name) for name in names])

    async def state(self, name: str) -> dict[str, int | None]:
        """Levels and counts of a scope of the tenant acme."""
        line = (await self.redis.get(f"trireme:{{t:acme}}:limits:{name}:state")).split()
        fields = ["at", "requests", "tokens", "day", "day_tokens", "day_cost", "month", "month_tokens", "month_cost"]
        return {field: None if one == b"-" else int(one) for field, one in zip(fields, line, strict=True)}

    async def quiet(self) -> bool:
        """Nothing is held any more."""
        return not await self.reserved() and not await self.active()


@asynccontextmanager
async def limiting(
    url: str,
    *,
    direct: str | None = None,
    clock: Callable[[], float] = time.time,
    sending: bool = True,
    patience_s: float = 2.0,
    **settings: Any,
) -> AsyncIterator[Limiting]:
    """`url`: Valkey as the limiter sees it, perhaps through a proxy; `direct`: as the test does.

    `sending`: the outbox runs. `patience_s`: time-out of a call; a busy machine must not look like an outage.
    """
    async with Redis.from_url(direct or url) as seen:
        wire = Wire.to(url)
        metrics, tasks, learned = Metrics(), Tasks(), list[tuple[str, str, int]]()
        valkey = Valkey(wire, ValkeySettings(call_timeout_s=patience_s, retry_s=0.2), metrics.valkey_degraded)
        outbox = Outbox(valkey)
        limiter = Limiter(
            valkey,
            outbox,
            LimitSettings(**settings),
            metrics,
            price=lambda _, prompt, completion, cached: prompt + 2 * completion,
            learn=lambda *answer: learned.append(answer),
            clock=clock,
        )
        tasks.keep("watch Valkey", valkey.watch)
        if sending:
            tasks.keep("send outbox", outbox.run)
        yield Limiting(seen, metrics, valkey, outbox, limiter, learned)
        await tasks.close(1.0)
        wire.drop()


async def eventually(condition: Callable[[], Any], what: str, seconds: float = 5.0) -> None:
    """Ask a coroutine function again and again."""
    until = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < until, f"never happened: {what}"
        await asyncio.sleep(0.005)
