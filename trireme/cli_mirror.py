"""`trireme mirror`: send copies of a model's requests to another arm, and compare what it does with them."""

from __future__ import annotations

import json
import time
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from control_plane.arms import arm_of
from control_plane.errors import NotFound
from control_plane.experiments.evidence import Evidence, Pairs
from control_plane.experiments.results import Paired, paired
from control_plane.experiments.state import Mirroring
from control_plane.experiments.store import TrialStore
from control_plane.routing import RoutingDocument
from gateway.core.snapshot import DEFAULT_GROUP, Arm
from trireme.errors import TriremeError
from trireme.options import AsJson, Config, shown_time
from trireme.settings import load_settings
from trireme.terminal import say
from trireme.trials import command, in_points, in_times, with_trials

app = typer.Typer(help="Copies of requests for a version that is tried out.", no_args_is_help=True)

Model = Annotated[str, typer.Argument(help="As clients name it; not an alias.")]


@app.command("set")
def begin(
    model: Model,
    *,
    arm: Annotated[str, typer.Option(help="One of the model's, or a new name together with where it is.")],
    fraction: Annotated[float, typer.Option(help="Of the requests, above 0 and up to 1.")],
    group: Annotated[str | None, typer.Option(help="The backends that serve it.", show_default=False)] = None,
    triton_model: Annotated[str | None, typer.Option(help="The Triton model there.", show_default=False)] = None,
    version: Annotated[str | None, typer.Option(help="Its version there.", show_default=False)] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="A tenant of whom nothing is copied; may be given more than once.", show_default=False),
    ] = None,
    config: Config = None,
) -> None:
    """Copy a part of a model's requests to an arm from now on; nobody gets its answers."""
    if not 0 < fraction <= 1:
        raise TriremeError("--fraction must be above 0 and at most 1: 0.1.")
    settings = load_settings(config)
    place = (group, triton_model, version)
    if place == (None, None, None):
        found = with_trials(settings, lambda _, routing: _known(routing, model, arm))
    else:
        found = Arm(name=arm, group=group or DEFAULT_GROUP, triton_model=triton_model or "chat", version=version)
    made = command(
        settings,
        lambda commands: commands.mirror(model, found, fraction, time.time(), exclude=tuple(exclude or ())),
    )
    say(f"Mirroring {made.id}: {fraction:.0%} of the requests for {model} go to {arm} as well.")


@app.command()
def clear(model: Model, config: Config = None) -> None:
    """Copy nothing more; what was seen stays on record."""
    settings = load_settings(config)
    found = with_trials(settings, lambda store, _: _newest(store, model))
    command(settings, lambda commands: commands.stop(found.id, time.time()))
    say(f"Mirroring {found.id} of {model} is over.")


@app.command()
def show(model: Model, as_json: AsJson = False, config: Config = None) -> None:
    """Show what the copies were like, beside their originals."""
    found, pairs = with_trials(load_settings(config), lambda store, _: _seen(store, model))
    rows = paired(found, pairs)
    if as_json:
        counts = {name: getattr(pairs, name) for name in ("copies", "failed", "originals_failed", "price")}
        record = {"mirroring": found, **counts, "tokens": [pairs.original_tokens, pairs.tokens], "rows": rows}
        typer.echo(json.dumps(msgspec.to_builtins(record), indent=2))
        return
    mirror, state = found.mirror, "under way" if found.under_way else "over"
    since = shown_time(int(found.started_at))
    Console().print(f"{found.id}: {mirror.fraction:.0%} of {model} for {mirror.arm.name} since {since}, {state}")
    Console().print(
        f"{pairs.copies} copies, {pairs.failed} failed, of their originals {pairs.originals_failed}; "
        f"tokens {pairs.tokens} : {pairs.original_tokens}; they cost {pairs.price / 1e9:.6g}"
    )
    table = Table("measure", "pairs", "copy against original", "interval", "p", box=None)
    for row in rows:
        table.add_row(*_cells(row))
    Console().print(table)


def _cells(row: Paired) -> tuple[str, str, str, str, str]:
    shown = _share if row.measure == "same" else in_points if row.measure == "errors" else in_times
    interval = row.missing if row.interval is None else " – ".join(shown(one) for one in row.interval)
    name = "same answer" if row.measure == "same" else row.measure.replace("_", " ")
    p_value = "" if row.p_value is None else f"{row.p_value:.2g}"
    return name, str(row.count), shown(row.difference), interval, p_value


def _share(value: float) -> str:
    return f"{value:.2%}"


async def _known(routing: RoutingDocument, model: str, name: str) -> Arm:
    arm = arm_of(await routing.read(), model, name)
    if arm is None:
        raise NotFound(
            f"there is no arm {name!r} of {model}: say where it is with --group, --triton-model or --version"
        )
    return arm


async def _newest(store: TrialStore, model: str) -> Mirroring:
    for trial in await store.all():
        if isinstance(trial, Mirroring) and trial.model == model:
            return trial
    raise NotFound(f"nothing of {model} was ever mirrored")


async def _seen(store: TrialStore, model: str) -> tuple[Mirroring, Pairs]:
    found = await _newest(store, model)
    evidence = await store.evidence(found)
    return found, Pairs() if isinstance(evidence, Evidence) else evidence
