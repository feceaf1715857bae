"""Writes that nobody waits for: many in one round trip, in the order in which they were posted."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from redis.exceptions import RedisError

from gateway.valkey.connection import ScriptCall, Valkey, ValkeyAway

# What belongs to the end of one request is posted within this time, and goes out together.
LINGER_S = 0.01
BATCH = 256
FLUSH_TIMEOUT_S = 1.0


def _always() -> bool:
    return True


@dataclass(frozen=True)
class Posted:
    """`done` gets the script's answer; `failed` is called when it may not have run (it may: scripts are idempotent).

    `needed` is asked just before it is sent: what has become needless is left out, and neither is called.
    """

    call: ScriptCall
    done: Callable[[Any], None]
    failed: Callable[[], None]
    needed: Callable[[], bool] = _always


class Outbox:
    """`run` sends; `post` never waits and never raises, so it may be called while a request is being cancelled."""

    def __init__(self, valkey: Valkey, most: int = 20_000) -> None:
        self._valkey = valkey
        self._most = most
        self._waiting: deque[Posted] = deque()
        self._filled = asyncio.Event()
        self._sending = asyncio.Lock()

    def post(self, posted: Posted) -> None:
        if len(self._waiting) >= self._most:
            posted.failed()
            return
        self._waiting.append(posted)
        self._filled.set()

    async def run(self) -> None:
        """Until cancelled; what is left then is for `flush`."""
        while True:
            await self._filled.wait()
            await asyncio.sleep(LINGER_S)
            await self.flush()

    async def flush(self) -> None:
        """Send everything that waits."""
        async with self._sending:
            while self._waiting:
                batch = list(islice(self._waiting, BATCH))
                await self._send([one for one in batch if one.needed()])
                for _ in batch:
                    self._waiting.popleft()
            self._filled.clear()

    async def _send(self, batch: Sequence[Posted]) -> None:
        if not batch:
            return
        try:
            answers = await self._valkey.run_all([one.call for one in batch], FLUSH_TIMEOUT_S)
        except ValkeyAway:
            for one in batch:
                one.failed()
            return
        for one, answer in zip(batch, answers, strict=True):
            if isinstance(answer, RedisError):
                one.failed()
            else:
                one.done(answer)
