"""A cache on a real Valkey, and an engine that answers when it is told to."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Gauge
from redis.asyncio import Redis

from gateway.assembly.building import build_nearest
from gateway.cache.caching import Cache
from gateway.cache.memory import Memory
from gateway.cache.semantic.semantic import Semantic
from gateway.cache.settings import CacheSettings
from gateway.cache.shelf import Shelf
from gateway.core.call import Call, Caller, Model, Serving
from gateway.core.freshness import ANY_AGE, Freshness
from gateway.core.identity import SERVERS_CACHE, CachePolicy
from gateway.core.job import Chunk, GenerationJob, Planned, Prompt
from gateway.core.limit import TimeLimit
from gateway.core.ports import Reply
from gateway.errors import GatewayError
from gateway.telemetry.metrics import Metrics
from gateway.valkey.connection import Valkey, ValkeySettings
from gateway.valkey.outbox import Outbox
from gateway.valkey.sideline import SideLine
from gateway.valkey.wire import Wire
from python_backends.preprocessing.schema import ChatRequest
from tests.unit.gateway.valkey.addresses import url_of

MODEL = Model("tiny", "generate", 256, 0)
PIECES = (b'{"index":0,"delta":{"content":"a"}}', b'{"index":0,"delta":{"content":"b"},"finish_reason":"stop"}')
WHOLE = list(PIECES)
# Of all gateways, until their test ends.
WIRES: list[Wire] = []


def job(ids: tuple[int, ...] = (1, 2, 3), **body: Any) -> GenerationJob:
    return GenerationJob(ChatRequest(**{"temperature": 0.0, **body}), [Prompt(list(ids), 100)])


def call(
    number: int = 1,
    *,
    tenant: str = "acme",
    key_id: str = "k1",
    seconds: float = 10,
    stream: bool = False,
    freshness: Freshness = ANY_AGE,
    key: CachePolicy = SERVERS_CACHE,
    policy: CachePolicy = SERVERS_CACHE,
    **fields: Any,
) -> Call:
    caller = Caller(key_id, tenant, frozenset({"inference"}), cache=key, tenant_cache=policy)
    limit = TimeLimit(seconds)
    given = {"model": MODEL, "caller": caller, "stream": stream, "freshness": freshness, **fields}
    return Call(id=f"r{number}", uid=f"u{number}", route="/v1/chat/completions", limit=limit, **given)


class Sent(list[bytes]):
    """A reply. `taken`: set with the first piece. `stuck`: its client takes nothing more."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = asyncio.Event()
        self.stuck = False

    async def send(self, piece: Chunk) -> None:
        if self.stuck:
            await asyncio.Event().wait()
        self.append(piece.choice)
        self.taken.set()

    async def finish(self) -> None: ...


@dataclass
class Engine:
    """Sends its pieces, then fails with `error` if there is one. `paced`: each of that only after a `tick`."""

    paced: bool = False
    error: BaseException | None = None
    pieces: list[bytes] = field(default_factory=lambda: list(PIECES))
    calls: list[Call] = field(default_factory=list)
    cancelled: int = 0
    _ticks: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    def tick(self, times: int = 1) -> None:
        for _ in range(times):
            self._ticks.release()

    async def __call__(self, call: Call, reply: Reply[Chunk]) -> None:
        self.calls.append(call)
        call.arm, call.model_version, call.backend = "main", "1", "b"
        call.mark("admission")
        seen = 0
        try:
            for piece in self.pieces:
                if self.paced:
                    await self._ticks.acquire()
                call.saw_tokens(1)
                seen += 1
                await reply.send(Chunk(piece, 1))
            if self.paced:
                await self._ticks.acquire()
            if self.error is not None:
                raise self.error
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            call.usage.add(len("abc"), seen, 0)


class Plans:
    """Embeddings as they are `known`, else each text in a direction of its own. `error`: raised instead. `seconds`: how
    long each takes.
    """

    def __init__(self) -> None:
        self.known: dict[str, list[float]] = {}
        self.asked: list[str] = []
        self.error: GatewayError | None = None
        self.seconds = 0.0

    async def plan(self, call: Call, text: str, timeout_s: float | None = None) -> Planned:
        if call.planned is None:
            self.asked.append(text)
            await asyncio.sleep(self.seconds)
            if self.error is not None:
                raise self.error
            vector = self.known.get(text) or [float(byte) - 128 for byte in sha256(text.encode()).digest()]
            call.planned = Planned(0.5, {}, "s", np.array(vector, dtype=np.float32), 3)
        return call.planned


class AtOnce:
    """No threads."""

    async def run(self, size: int, work: Callable[..., list[int]], *arguments: Any) -> list[int]:
        return work(*arguments)


class Gateway:
    """One gateway's cache. `serving`: what would answer."""

    def __init__(
        self, redis: Redis, *, name: str = "one", patience_s: float = 5.0, search_patience_s: float = 5.0, **given: Any
    ) -> None:
        self.now = 1000.0
        self.day = "2026-01-01"
        self.metrics = Metrics()
        self.serving: Serving | None = Serving("main", "1")
        settings = CacheSettings(**{"local_s": 0.0, "semantic_thresholds": {"tiny-encoder": 0.9}, **given})
        wire, aside = (Wire.to(url_of(redis)) for _ in range(2))
        degraded, patience = (
            Gauge("degraded", "", registry=CollectorRegistry()),
            ValkeySettings(call_timeout_s=patience_s),
        )
        self.valkey = Valkey(wire, patience, degraded)
        self.wires = [wire, aside]
        WIRES.extend(self.wires)
        self.outbox = Outbox(self.valkey)
        self.shelf = Shelf(self.valkey, self.outbox, settings, name, self.metrics.cache_stores)
        self.memory = Memory(settings.local_bytes, settings.local_s, lambda: self.now)
        self.plans = Plans()
        patient = ValkeySettings(call_timeout_s=search_patience_s)
        side = SideLine(aside, patient, lambda: self.valkey.available, clock=self._time)
        self.nearest = build_nearest(
            self.shelf, AtOnce(), side, settings, self.metrics, clock=self._time, monotonic=self._time
        )
        self.semantic = Semantic(
            self.shelf,
            self.plans,
            self.nearest,
            settings,
            self.metrics,
            encoder="tiny-encoder",
            today=lambda: self.day,
            clock=lambda: self.now,
        )
        self.cache = Cache(
            self.shelf,
            self.memory,
            settings,
            self.metrics,
            lambda _: self.serving,
            semantic=self.semantic,
            limited=lambda _: True,
            clock=lambda: self.now,
            random_share=lambda: 0.5,
            sleep=lambda _: self.outbox.flush(),
        )

    def _time(self) -> float:
        return self.now

    async def ask(self, call: Call, engine: Engine, job: GenerationJob) -> Sent:
        sent = Sent()
        await self.answer(call, engine, job, sent)
        return sent

    async def answer(self, call: Call, engine: Engine, job: GenerationJob, sent: Sent) -> None:
        """Within its time, and everything that was posted has been sent then."""
        async with call.limit:
            with self.cache.answering(call, job, sent, engine) as answer:
                await answer()
        await self.outbox.flush()

    def value(self, name: str) -> float:
        return self.metrics.registry.get_sample_value(name) or 0.0

    def counted(self, outcome: str, reason: str = "") -> float:
        labels = {"outcome": outcome, "reason": reason}
        return self.metrics.registry.get_sample_value("trireme_cache_requests_total", labels) or 0.0
