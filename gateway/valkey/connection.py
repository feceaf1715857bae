"""Scripts run in Valkey, with a short wait, and none while it is known not to answer."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha1
from typing import Annotated, Any, Final, Protocol

import msgspec
from prometheus_client import Gauge
from redis.exceptions import NoScriptError, RedisError

from gateway.core.bounded import Bounded
from gateway.core.settings import Setting
from gateway.valkey.wire import Argument, Command

Positive = Annotated[float, msgspec.Meta(gt=0)]


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
        Setting(
            "Failed calls in a row after which Valkey counts as away; of those that are not answered in time, one is "
            "enough.",
            env="VALKEY_FAILURES",
        ),
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


class Asking(Protocol):
    """`wire.Wire`, or `cluster.ClusterWire`."""

    @property
    def connected(self) -> bool: ...

    async def ask(self, commands: Sequence[Command]) -> list[Any]: ...

    def drop(self) -> None: ...


# It writes: a server that only reads is of no use.
_PROBE: Final = ScriptCall(Script.of("return redis.call('SET', KEYS[1], '1', 'PX', 1000)"), ["trireme:probe"], ())


class Valkey:
    """All calls share one connection: a crowd that arrives at once costs one round trip, and there is no pool that
    could be full.

    A server that does not answer is waited for once: from the first call that was in vain, all fail at once, until
    `watch` has found that it answers again. So no request is ever the one that tries. `degraded`: 1 until then.
    """

    def __init__(self, wire: Asking, settings: ValkeySettings, degraded: Gauge) -> None:
        self._wire = wire
        self._timeout_s = settings.call_timeout_s
        self._retry_s = settings.retry_s
        self._most = settings.failures
        self._failed = 0
        self._lost = asyncio.Event()
        self._degraded = degraded

    @property
    def available(self) -> bool:
        return not self._lost.is_set()

    async def watch(self) -> None:
        """Until cancelled: find out when Valkey is back, each time that it is away."""
        while True:
            await self._lost.wait()
            if not await self.attempt():
                await asyncio.sleep(self._retry_s)

    async def attempt(self) -> bool:
        """Whether Valkey answers, and as soon as requests need it: what is stuck comes first, and may take longer.

        A connection on which nothing comes may be dead: the next attempt makes a new one.
        """
        try:
            for patience_s in (self._retry_s, self._timeout_s):
                async with Bounded(patience_s):
                    await self._answer(_PROBE)
        except (RedisError, TimeoutError, OSError):
            self._wire.drop()
            return False
        self._failed = 0
        self._lost.clear()
        self._degraded.set(0)
        return True

    async def run(self, call: ScriptCall) -> Any:
        """The script's answer. Raises ValkeyAway, at once while Valkey is away."""
        with self._watched():
            async with Bounded(self._timeout_s):
                return await self._answer(call)

    async def run_all(self, calls: Sequence[ScriptCall], timeout_s: float) -> list[Any]:
        """Their answers, in one round trip; an answer can be a RedisError. Raises ValkeyAway."""
        with self._watched():
            async with Bounded(timeout_s):
                return await self._evaluate(calls)

    async def _answer(self, call: ScriptCall) -> Any:
        (answer,) = await self._evaluate([call])
        if isinstance(answer, RedisError):
            raise answer
        return answer

    async def _evaluate(self, calls: Sequence[ScriptCall]) -> list[Any]:
        answers = await self._wire.ask([_evalsha(call) for call in calls])
        missing = [number for number, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if missing:  # a server that was restarted has forgotten its scripts
            scripts = {calls[number].script for number in missing}
            again = await self._wire.ask(
                [*(_load(script) for script in scripts), *(_evalsha(calls[number]) for number in missing)]
            )
            for number, answer in zip(missing, again[len(scripts) :], strict=True):
                answers[number] = answer
        return answers

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """One translation of failures, and one place that counts them. A cancelled call tells nothing; one that was on
        its way when Valkey was lost, and is answered all the same, does not bring it back.
        """
        if not self.available:
            raise ValkeyAway
        try:
            yield
        except (RedisError, TimeoutError, OSError) as error:
            self._failed += 1
            if isinstance(error, TimeoutError) or self._failed >= self._most:
                self._lost.set()
                self._degraded.set(1)
            raise ValkeyAway from error
        self._failed = 0


def _evalsha(call: ScriptCall) -> Command:
    return (b"EVALSHA", call.script.sha, len(call.keys), *call.keys, *call.args)


def _load(script: Script) -> Command:
    return (b"SCRIPT", b"LOAD", script.source)
