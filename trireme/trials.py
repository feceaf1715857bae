"""What the commands for experiments, mirroring and arms share."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Awaitable, Callable
from typing import TypeVar

from rich.console import Console

from control_plane.errors import ControlError
from control_plane.experiments.commands import TrialCommands
from control_plane.experiments.store import TrialStore
from control_plane.lease import LEASE
from control_plane.routing import RoutingDocument
from trireme.errors import TriremeError
from trireme.keys import valkey
from trireme.settings import Settings

Result = TypeVar("Result")


def command(settings: Settings, give: Callable[[TrialCommands], Awaitable[Result]]) -> Result:
    """Raises: TriremeError."""

    async def run(store: TrialStore, routing: RoutingDocument) -> Result:
        return await give(TrialCommands(store, routing, getpass.getuser()))

    return with_trials(settings, run)


def with_trials(settings: Settings, work: Callable[[TrialStore, RoutingDocument], Awaitable[Result]]) -> Result:
    """Says so where no control plane is there to count. Raises: TriremeError."""

    async def run() -> Result:
        async with valkey(settings) as redis:
            if not await redis.exists(LEASE):
                say("No control plane runs now: nothing is counted until one does.")
            return await work(TrialStore(redis), RoutingDocument(redis))

    try:
        return asyncio.run(run())
    except ControlError as error:
        raise TriremeError(f"{str(error)[:1].upper()}{str(error)[1:]}.") from error


def in_points(value: float) -> str:
    """Of a share."""
    return f"{100 * value:+.2f} points"


def in_times(value: float) -> str:
    return f"{value:.3f} times"


def say(text: str) -> None:
    Console(stderr=True).print(text, soft_wrap=True, markup=False, highlight=False)
