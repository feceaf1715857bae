"""Background tasks: named, watched, and ended with the process."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any

from gateway.errors import GatewayError

log = logging.getLogger(__name__)

FIRST_BACK_OFF_S = 0.2
LAST_BACK_OFF_S = 5.0
CANCEL_AGAIN_S = 0.2


class Tasks:
    """Owns every task that outlives the request which started it."""

    def __init__(self) -> None:
        self._brief: set[asyncio.Task[None]] = set()
        self._lasting: set[asyncio.Task[None]] = set()

    def spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run `work`, which ends by itself, to its end. Never awaited, so it may be called while being cancelled."""
        self._start(self._brief, name, _guard(name, work))

    def keep(self, name: str, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Run `work` again and again until `close` or its cancellation, with back-off after a failure."""
        return self._start(self._lasting, name, _forever(name, work))

    def _start(self, kind: set[asyncio.Task[None]], name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        kind.add(task)
        task.add_done_callback(kind.discard)
        return task

    async def close(self, patience_s: float) -> None:
        """Stop the lasting tasks, and give the brief ones `patience_s` to finish."""
        for task in self._lasting:
            task.cancel()
        if self._brief:
            await asyncio.wait(self._brief, timeout=patience_s)
        await _end([*self._lasting, *self._brief])


async def _end(tasks: Collection[asyncio.Task[None]]) -> None:
    """A library that swallows a cancellation (asyncio.wait_for does before Python 3.12) gets another one."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_S)


async def _guard(name: str, work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:  # boundary: nobody awaits this task, so its failure must be told here
        log.exception("background task %s failed", name)


async def _forever(name: str, work: Callable[[], Awaitable[None]]) -> None:
    back_off = FIRST_BACK_OFF_S
    while True:
        try:
            await work()
            back_off = FIRST_BACK_OFF_S
            continue
        except GatewayError as error:
            log.warning("background task %s: %s (%s); again in %.1f s", name, error.message, error.__cause__, back_off)
        except Exception:  # boundary: a lasting task survives whatever happens in it
            log.exception("background task %s failed; again in %.1f s", name, back_off)
        await asyncio.sleep(back_off)
        back_off = min(back_off * 2, LAST_BACK_OFF_S)
