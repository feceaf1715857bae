"""Scripts run in Valkey, with a short wait and behind a circuit."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha1
from typing import Annotated, Any

import msgspec
from prometheus_client import Gauge
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from gateway.core.settings import Setting
from gateway.valkey.circuit import Circuit

Positive = Annotated[float, msgspec.Meta(gt=0)]
Argument = str | bytes | int | float


@dataclass(frozen=True, kw_only=True)
class ValkeySettings:
    """For everything but API keys, which have an own, more patient time-out (`auth`)."""

    call_timeout_s: Annotated[
        Positive,
        Setting(
            "Longest wait of a request for limits, caches or the ledger; then it goes on without.",
            env="VALKEY_CALL_TIMEOUT_S",
            unit="s",
        ),
    ] = 0.05
    failures: Annotated[
        int,
        msgspec.Meta(ge=1),
        Setting("Failed calls in a row after which Valkey counts as away.", env="VALKEY_FAILURES"),
    ] = 3
    retry_s: Annotated[
        Positive, Setting("How often it is tried again while it is away.", env="VALKEY_RETRY_S", unit="s")
    ] = 1.0


class ValkeyAway(Exception):  # noqa: N818 - named like the errors of the gateway: for what is the case
    """No answer in time, or none expected. Never leaves the stage that asked: each has a policy for it."""


@dataclass(frozen=True)
class Script:
    """A Lua script; all its keys must lie in one slot."""

    source: str
    sha: str

    @classmethod
    def of(cls, source: str) -> "Script":
        return cls(source, sha1(source.encode(), usedforsecurity=False).hexdigest())


@dataclass(frozen=True)
class ScriptCall:
    script: Script
    keys: Sequence[str]
    args: Sequence[Argument]


class Valkey:
    """`degraded`: 1 while the circuit is open. `clock`: monotonic seconds."""

    def __init__(
        self, redis: Redis, settings: ValkeySettings, degraded: Gauge, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._redis = redis
        self._timeout_s = settings.call_timeout_s
        self._circuit = Circuit(settings.failures, settings.retry_s, clock)
        self._degraded = degraded

    @property
    def available(self) -> bool:
        return self._circuit.closed

    async def run(self, call: ScriptCall) -> Any:
        """The script's answer. Raises ValkeyAway, at once while the circuit is open."""
        with self._watched():
            async with asyncio.timeout(self._timeout_s):
                try:
                    return await self._evaluate(call)
                except NoScriptError:  # a server that was restarted has forgotten its scripts
                    await self._redis.script_load(call.script.source)
                    return await self._evaluate(call)

    async def run_all(self, calls: Sequence[ScriptCall], timeout_s: float) -> list[Any]:
        """Their answers, in one round trip; an answer can be a RedisError. Raises ValkeyAway."""
        with self._watched():
            async with asyncio.timeout(timeout_s):
                answers = await self._pipeline(calls)
                if any(isinstance(answer, NoScriptError) for answer in answers):
                    for source in {call.script.source for call in calls}:
                        await self._redis.script_load(source)
                    answers = await self._again(calls, answers)
                return answers

    async def _again(self, calls: Sequence[ScriptCall], answers: list[Any]) -> list[Any]:
        """Only those that did not run."""
        missing = [number for number, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        later = await self._pipeline([calls[number] for number in missing])
        for number, answer in zip(missing, later, strict=True):
            answers[number] = answer
        return answers

    async def _evaluate(self, call: ScriptCall) -> Any:
        return await self._redis.evalsha(call.script.sha, len(call.keys), *call.keys, *call.args)

    async def _pipeline(self, calls: Sequence[ScriptCall]) -> list[Any]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for call in calls:
                pipe.evalsha(call.script.sha, len(call.keys), *call.keys, *call.args)
            return list(await pipe.execute(raise_on_error=False))

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """One translation of failures, and one place that counts them. A cancelled call tells nothing."""
        if not self._circuit.allows():
            raise ValkeyAway
        try:
            yield
        except (RedisError, TimeoutError, OSError) as error:
            self._circuit.failed()
            self._degraded.set(0 if self._circuit.closed else 1)
            raise ValkeyAway from error
        self._circuit.succeeded()
        self._degraded.set(0)
