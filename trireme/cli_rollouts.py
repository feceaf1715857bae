"""`trireme rollouts`: bring a new version of a model to its clients step by step, by the control plane."""

from __future__ import annotations

import getpass
import json
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from control_plane.rollouts.commands import Commands
from control_plane.rollouts.state import Comparison, Rollout, Rules
from control_plane.rollouts.store import Store
from control_plane.routing import RoutingDocument
from gateway.core.snapshot import DEFAULT_GROUP, Arm
from trireme.control import with_control
from trireme.errors import TriremeError
from trireme.options import AsJson, Config, shown_time
from trireme.settings import Settings, load_settings
from trireme.terminal import say

app = typer.Typer(help="New versions of a model, step by step.", no_args_is_help=True)

RolloutId = Annotated[str, typer.Argument(metavar="ROLLOUT", help="Its id, as `rollouts list` shows it.")]
Result = TypeVar("Result")
_DEFAULTS = Rules()
_SECONDS_PER_MINUTE = 60.0
_IDLE = "nothing is decided"


@app.command()
def start(
    model: Annotated[str, typer.Argument(help="As clients name it; not an alias.")],
    *,
    arm: Annotated[str, typer.Option(help="Name of the new version, in the ledger and in routing.")],
    group: Annotated[str, typer.Option(help="The backends that serve it.")] = DEFAULT_GROUP,
    triton_model: Annotated[str, typer.Option(help="The Triton model to call there.")] = "chat",
    version: Annotated[
        str | None, typer.Option(help="Its version there; Triton's own choice, when left out.", show_default=False)
    ] = None,
    steps: Annotated[str, typer.Option(help="Percent of the calls.")] = ",".join(map(str, _DEFAULTS.steps)),
    min_samples: Annotated[int, typer.Option(help="Requests of the new version at each step.")] = _DEFAULTS.min_samples,
    min_minutes: Annotated[float, typer.Option(help="Time at each step.")] = _DEFAULTS.min_step_s / _SECONDS_PER_MINUTE,
    config: Config = None,
) -> None:
    """Give a new version of a model a small share of the calls, and more as it proves to be no worse."""
    rules = _rules(steps=steps.split(","), min_samples=min_samples, min_step_s=min_minutes * _SECONDS_PER_MINUTE)
    canary = Arm(name=arm, group=group, triton_model=triton_model, version=version)
    rollout = _command(load_settings(config), lambda commands: commands.start(model, canary, rules, time.time()))
    say(f"Rollout {rollout.id} begins with {rollout.share} % of {model}.")


@app.command("list")
def list_rollouts(as_json: AsJson = False, config: Config = None) -> None:
    """Show all rollouts that are on record, the newest first."""
    rollouts = _with_store(load_settings(config), lambda store: store.all())
    if as_json:
        typer.echo(json.dumps([_public(rollout) for rollout in rollouts], indent=2))
        return
    table = Table("id", "model", "new", "old", "status", "share", "since", box=None)
    for one in rollouts:
        names = (one.definition.model, one.definition.canary.name, one.definition.stable.name)
        table.add_row(one.id, *names, one.status.replace("_", " "), f"{one.share} %", shown_time(int(one.since)))
    Console().print(table)


@app.command()
def show(rollout: RolloutId, as_json: AsJson = False, config: Config = None) -> None:
    """Show one rollout with every decision and its numbers."""
    found = _with_store(load_settings(config), lambda store: store.get(rollout))
    if as_json:
        typer.echo(json.dumps(_public(found), indent=2))
        return
    table = Table("when", "who", "at", "what", "why", "numbers", box=None)
    for one in found.history:
        numbers = "\n".join(map(_numbers, one.comparisons))
        action = one.action.replace("_", " ")
        table.add_row(shown_time(int(one.at)), one.by, f"{one.share} %", action, one.reason, numbers)
    Console().print(f"{found.id}: {found.definition.model}, {found.status.replace('_', ' ')}, {found.share} %")
    Console().print(table)


@app.command()
def pause(rollout: RolloutId, config: Config = None) -> None:
    """Keep the share as it is, and decide nothing."""
    found = _command(load_settings(config), lambda commands: commands.pause(rollout, time.time()))
    say(f"Rollout {found.id} stays at {found.share} %.")


@app.command()
def resume(rollout: RolloutId, config: Config = None) -> None:
    """Go on with a paused rollout."""
    found = _command(load_settings(config), lambda commands: commands.resume(rollout, time.time()))
    say(f"Rollout {found.id} goes on at {found.share} %.")


@app.command()
def abort(
    rollout: RolloutId,
    reason: Annotated[str, typer.Option(help="For the record.")] = "",
    config: Config = None,
) -> None:
    """Send everybody back to the old version at once; this needs no control plane."""
    found = _command(load_settings(config), lambda commands: commands.abort(rollout, time.time(), reason))
    say(f"Rollout {found.id} is aborted: {found.definition.stable.name} serves {found.definition.model}.")


def _rules(**given: Any) -> Rules:
    """Raises: TriremeError."""
    try:
        return msgspec.convert(given, Rules, strict=False)
    except msgspec.ValidationError as error:
        raise TriremeError(f"These rules make no sense: {error}.") from error


def _command(settings: Settings, work: Callable[[Commands], Awaitable[Rollout]]) -> Rollout:
    """Raises: TriremeError."""
    by = getpass.getuser()
    return with_control(settings, lambda redis: work(Commands(Store(redis), RoutingDocument(redis), by)), idle=_IDLE)


def _with_store(settings: Settings, work: Callable[[Store], Awaitable[Result]]) -> Result:
    """Raises: TriremeError."""
    return with_control(settings, lambda redis: work(Store(redis)), idle=_IDLE)


def _numbers(one: Comparison) -> str:
    name = one.metric.replace("_", " ")
    if one.metric == "errors":
        return f"{name} {one.canary:.2%} : {one.stable:.2%} of {one.canary_samples} : {one.stable_samples}"
    return f"{name} {one.canary:.1f} : {one.stable:.1f} ms"


def _public(rollout: Rollout) -> Any:
    return {**msgspec.to_builtins(rollout), "share": rollout.share}
