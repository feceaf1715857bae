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
    """Who does not answer is waited for once, and then once in `retry_s`. It connects with the first command.

    `available`: whether Valkey answers otherwise; nobody waits here for a server that is known to be away. `clock`:
    monotonic seconds.
    """

    def __init__(
        self,
        wire: Asking,
        settings: ValkeySettings,
        available: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wire = wire
        self._timeout_s = settings.call_timeout_s
        self._available = available
        self._circuit = Circuit(1, settings.retry_s, clock)

    @property
    def connected(self) -> bool:
        """False: whoever is asked next may be another server."""
        return self._wire.connected

    @property
    def timeout_ms(self) -> int:
        """The longest wait for an answer."""
        return max(1, round(self._timeout_s * 1000))

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Their answers, in one round trip, RedisErrors among them. Raises ValkeyAway, at once after a failure."""
        if not self._available() or not self._circuit.allows():
            raise ValkeyAway
        try:
            async with Bounded(self._timeout_s):
                answers = await self._wire.ask(commands)
        except (RedisError, TimeoutError, OSError) as error:
            self._circuit.failed()
            self._wire.drop()
            raise ValkeyAway from error
        self._circuit.succeeded()
        return answers
