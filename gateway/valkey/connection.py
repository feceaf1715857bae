"""Scripts run in Valkey, with a short wait and behind a circuit."""

import asyncio
import time
from collections import deque
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
from gateway.telemetry.tasks import Tasks
from gateway.valkey.bounded import Bounded
from gateway.valkey.circuit import Circuit

Positive = Annotated[float, msgspec.Meta(gt=0)]
# Calls of requests on the way at the same time, and how many that wait go together.
LANES = 4
TOGETHER = 256
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


@dataclass(frozen=True, eq=False)
class _Waiting:
    call: ScriptCall
    answer: asyncio.Future[Any]


class Valkey:
    """Calls share a few lanes: those that find all of them busy wait, and go together in one round trip.

    So a crowd that arrives at once costs a few round trips, and no full connection pool ever looks like a server that
    is away. `degraded`: 1 while the circuit is open. `clock`: monotonic seconds.
    """

    def __init__(
        self,
        redis: Redis,
        settings: ValkeySettings,
        degraded: Gauge,
        tasks: Tasks,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = redis
        self._timeout_s = settings.call_timeout_s
        self._circuit = Circuit(settings.failures, settings.retry_s, clock)
        self._degraded = degraded
        self._tasks = tasks
        self._busy = 0
        self._waiting: deque[_Waiting] = deque()

    @property
    def available(self) -> bool:
        return self._circuit.closed

    async def run(self, call: ScriptCall) -> Any:
        """The script's answer. Raises ValkeyAway, at once while the circuit is open."""
        if self._busy < LANES:
            return await self._alone(call)
        if not self._circuit.closed:
            raise ValkeyAway
        waiting = _Waiting(call, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        return await waiting.answer

    async def run_all(self, calls: Sequence[ScriptCall], timeout_s: float) -> list[Any]:
        """Their answers, in one round trip; an answer can be a RedisError. Raises ValkeyAway."""
        with self._watched():
            async with Bounded(timeout_s):
                answers = await self._pipeline(calls)
                missing = [number for number, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
                if missing:  # a server that was restarted has forgotten its scripts
                    await self._load({calls[number].script for number in missing})
                    again = await self._pipeline([calls[number] for number in missing])
                    for number, answer in zip(missing, again, strict=True):
                        answers[number] = answer
                return answers

    async def _alone(self, call: ScriptCall) -> Any:
        self._busy += 1
        try:
            with self._watched():
                async with Bounded(self._timeout_s):
                    try:
                        return await self._evaluate(call)
                    except NoScriptError:
                        await self._load({call.script})
                        return await self._evaluate(call)
        finally:
            self._busy -= 1
            if self._waiting:
                self._busy += 1
                self._tasks.spawn("serve waiting valkey calls", self._serve())

    async def _serve(self) -> None:
        """Everybody who waits, together; then those who came in the meantime."""
        try:
            while self._waiting:
                await self._together([self._waiting.popleft() for _ in range(min(TOGETHER, len(self._waiting)))])
        finally:
            self._busy -= 1

    async def _together(self, waiting: Sequence[_Waiting]) -> None:
        """A caller that left while it waited is not served; one that leaves now has its script run all the same."""
        waiting = [one for one in waiting if not one.answer.done()]
        try:
            answers: list[Any] = await self.run_all([one.call for one in waiting], self._timeout_s)
        except ValkeyAway as error:
            answers = [error] * len(waiting)
        for one, answer in zip(waiting, answers, strict=True):
            if one.answer.done():
                continue
            if isinstance(answer, (ValkeyAway, RedisError)):
                one.answer.set_exception(ValkeyAway(str(answer)))
            else:
                one.answer.set_result(answer)

    async def _evaluate(self, call: ScriptCall) -> Any:
        return await self._redis.evalsha(call.script.sha, len(call.keys), *call.keys, *call.args)

    async def _load(self, scripts: set[Script]) -> None:
        for script in scripts:
            await self._redis.script_load(script.source)

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
