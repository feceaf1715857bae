"""`trireme arms`: the ways in which a model can be served, for experiments and mirroring."""

from __future__ import annotations

import json
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from control_plane.arms import with_arm, without_arm
from control_plane.routing import RoutingDocument
from gateway.core.snapshot import DEFAULT_GROUP, Arm, ModelRoute
from trireme.options import AsJson, Config
from trireme.settings import load_settings
from trireme.terminal import say
from trireme.trials import with_trials

app = typer.Typer(help="Ways in which a model can be served.", no_args_is_help=True)

Model = Annotated[str, typer.Argument(help="As clients name it; not an alias.")]
Name = Annotated[str, typer.Argument(metavar="ARM", help="Its name, in routing and in the ledger.")]


@app.command("list")
def list_arms(as_json: AsJson = False, config: Config = None) -> None:
    """Show the arms of all models that have others than their own."""
    routes = with_trials(load_settings(config), lambda _, routing: _routes(routing))
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(routes), indent=2))
        return
    table = Table("model", "arm", "weight", "group", "Triton model", "version", box=None)
    for route in routes:
        for arm in route.arms:
            table.add_row(route.name, arm.name, str(arm.weight), arm.group, arm.triton_model, arm.version or "")
    Console().print(table)


@app.command()
def add(
    model: Model,
    name: Name,
    *,
    group: Annotated[str, typer.Option(help="The backends that serve it.")] = DEFAULT_GROUP,
    triton_model: Annotated[str, typer.Option(help="The Triton model to call there.")] = "chat",
    version: Annotated[
        str | None, typer.Option(help="Its version there; Triton's own choice, when left out.", show_default=False)
    ] = None,
    config: Config = None,
) -> None:
    """Add an arm that gets nobody yet."""
    arm = Arm(name=name, group=group, triton_model=triton_model, version=version)
    with_trials(
        load_settings(config),
        lambda _, routing: routing.change(lambda document: with_arm(document, model, arm)),
    )
    say(f"{model} has the arm {name}; it gets no calls until an experiment or a rollout gives it some.")


@app.command()
def remove(model: Model, name: Name, config: Config = None) -> None:
    """Remove an arm that gets no calls."""
    with_trials(
        load_settings(config), lambda _, routing: routing.change(lambda document: without_arm(document, model, name))
    )
    say(f"{model} has no arm {name} any more.")


async def _routes(routing: RoutingDocument) -> tuple[ModelRoute, ...]:
    return (await routing.read()).models
