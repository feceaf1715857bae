"""Waiting for what happens elsewhere in the process, without guessing how long it takes."""

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object]) -> None:
    """Let everybody else run until it holds. Raises TimeoutError after two seconds."""
    async with asyncio.timeout(2):
        while not condition():  # noqa: ASYNC110 - the code under test should not carry events for its tests
            await asyncio.sleep(0)
