"""Long work off the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import ParamSpec, TypeVar

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


class Offload:
    """Does short work at once and long work in a thread, so that one long text delays nobody else's tokens.

    `threshold`: size from which on work counts as long, in whatever unit the caller measures.
    """

    def __init__(self, pool: Executor, threshold: int) -> None:
        self._pool = pool
        self._threshold = threshold

    async def run(
        self, size: int, work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        if size < self._threshold:
            return work(*args, **kwargs)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: work(*args, **kwargs))
