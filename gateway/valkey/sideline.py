"""Commands that requests can do without, on a connection of their own: however long they take, limits and keys do not
wait behind them, and how they fail says nothing of Valkey.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import RedisError

from gateway.core.bounded import Bounded
from gateway.core.circuit import Circuit
from gateway.valkey.connection import Asking, ValkeyAway, ValkeySettings
from gateway.valkey.wire import Command


class SideLine:
    """`clock`: monotonic seconds. It connects with the first command."""

    def __init__(self, wire: Asking, settings: ValkeySettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._wire = wire
        self._timeout_s = settings.call_timeout_s
        self._circuit = Circuit(settings.failures, settings.retry_s, clock)

    @property
    def connected(self) -> bool:
        """False: whoever is asked next may be another server."""
        return self._wire.connected

    @property
    def timeout_ms(self) -> int:
        """The longest wait for an answer."""
        return max(1, round(self._timeout_s * 1000))

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Their answers, in one round trip; an answer can be a RedisError. Raises ValkeyAway, at once after failures in
        a row.
        """
        if not self._circuit.allows():
            raise ValkeyAway
        try:
            async with Bounded(self._timeout_s):
                answers = await self._wire.ask(commands)
        except (RedisError, TimeoutError, OSError) as error:
            self._circuit.failed()
            if not self._circuit.closed:
                self._wire.drop()
            raise ValkeyAway from error
        self._circuit.succeeded()
        return answers
