"""Scripts run in Valkey, with a short wait and behind a circuit."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha1
from typing import Annotated, Any, Protocol

import msgspec
from prometheus_client import Gauge
from redis.exceptions import NoScriptError, RedisError

from gateway.core.circuit import Circuit
from gateway.core.settings import Setting
from gateway.valkey.bounded import Bounded
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


class Asking(Protocol):
    """`wire.Wire`, or `cluster.ClusterWire`."""

    async def ask(self, commands: Sequence[Command]) -> list[Any]: ...

    def drop(self) -> None: ...


class Valkey:
    """All calls share one connection: a crowd that arrives at once costs one round trip, and there is no pool that
    could be full. `degraded`: 1 while the circuit is open. `clock`: monotonic seconds.
    """

    def __init__(
        self, wire: Asking, settings: ValkeySettings, degraded: Gauge, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._wire = wire
        self._timeout_s = settings.call_timeout_s
        self._circuit = Circuit(settings.failures, settings.retry_s, clock)
        self._degraded = degraded

    @property
    def available(self) -> bool:
        return self._circuit.closed

    async def run(self, call: ScriptCall) -> Any:
        """The script's answer. Raises ValkeyAway, at once while the circuit is open."""
        with self._watched():
            async with Bounded(self._timeout_s):
                (answer,) = await self._evaluate([call])
                if isinstance(answer, RedisError):
                    raise answer
                return answer

    async def run_all(self, calls: Sequence[ScriptCall], timeout_s: float) -> list[Any]:
        """Their answers, in one round trip; an answer can be a RedisError. Raises ValkeyAway."""
        with self._watched():
            async with Bounded(timeout_s):
                return await self._evaluate(calls)

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
        """One translation of failures, and one place that counts them. A cancelled call tells nothing.

        A server that does not answer may be behind a connection that is dead: the next attempt makes a new one.
        """
        if not self._circuit.allows():
            raise ValkeyAway
        try:
            yield
        except (RedisError, TimeoutError, OSError) as error:
            self._circuit.failed()
            if not self._circuit.closed:
                self._degraded.set(1)
                self._wire.drop()
            raise ValkeyAway from error
        self._circuit.succeeded()
        self._degraded.set(0)


def _evalsha(call: ScriptCall) -> Command:
    return (b"EVALSHA", call.script.sha, len(call.keys), *call.keys, *call.args)


def _load(script: Script) -> Command:
    return (b"SCRIPT", b"LOAD", script.source)
