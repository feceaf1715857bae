"""The way of the commands to what the control plane keeps in Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from redis.asyncio import Redis

from control_plane.errors import ControlError
from control_plane.lease import LEASE
from trireme.errors import TriremeError, as_sentence
from trireme.keys import valkey
from trireme.settings import Settings
from trireme.terminal import say

Result = TypeVar("Result")


def with_control(settings: Settings, work: Callable[[Redis], Awaitable[Result]], idle: str = "") -> Result:
    """`idle`: what is said where no control plane is there to act. Raises: TriremeError."""

    async def run() -> Result:
        async with valkey(settings) as redis:
            if idle and not await redis.exists(LEASE):
                say(f"No control plane runs now: {idle} until one does.")
            return await work(redis)

    with refusals():
        return asyncio.run(run())


@contextmanager
def refusals() -> Iterator[None]:
    """What the control plane's code refuses, as a sentence for the terminal."""
    try:
        yield
    except ControlError as error:
        raise TriremeError(as_sentence(str(error))) from error
