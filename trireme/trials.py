"""What the commands for experiments, mirroring and arms share."""

from __future__ import annotations

import getpass
from collections.abc import Awaitable, Callable
from typing import TypeVar

from control_plane.experiments.commands import TrialCommands
from control_plane.experiments.store import TrialStore
from control_plane.routing import RoutingDocument
from trireme.control import with_control
from trireme.settings import Settings

Result = TypeVar("Result")


def command(settings: Settings, give: Callable[[TrialCommands], Awaitable[Result]]) -> Result:
    """Raises: TriremeError."""

    async def run(store: TrialStore, routing: RoutingDocument) -> Result:
        return await give(TrialCommands(store, routing, getpass.getuser()))

    return with_trials(settings, run)


def with_trials(settings: Settings, work: Callable[[TrialStore, RoutingDocument], Awaitable[Result]]) -> Result:
    """Raises: TriremeError."""
    return with_control(
        settings, lambda redis: work(TrialStore(redis), RoutingDocument(redis)), idle="nothing is counted"
    )


def in_points(value: float) -> str:
    """Of a share."""
    return f"{100 * value:+.2f} points"


def in_times(value: float) -> str:
    return f"{value:.3f} times"
