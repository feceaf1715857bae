"""`trireme experiments`: divide a model's calls among its arms, and see which is better."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any, cast, get_args

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from control_plane.experiments.evidence import Evidence
from control_plane.experiments.results import Results, Row, results
from control_plane.experiments.state import CONFIDENCE, PLANNED, Experiment, Trial
from gateway.core.snapshot import Unit
from trireme.errors import TriremeError
from trireme.options import AsJson, Config, shown_time
from trireme.settings import load_settings
from trireme.terminal import say
from trireme.trials import command, in_points, in_times, with_trials

app = typer.Typer(help="Which of several arms of a model is better?", no_args_is_help=True)

ExperimentId = Annotated[str, typer.Argument(metavar="EXPERIMENT", help="Its id, as `experiments list` shows it.")]
_UNITS = ", ".join(get_args(Unit))


@app.command()
def create(
    *,
    model: Annotated[str, typer.Option(help="As clients name it; not an alias.")],
    arm: Annotated[list[str], typer.Option(help="NAME=WEIGHT, at least twice; the first is compared with.")],
    by: Annotated[str, typer.Option(help=f"Who keeps an arm: {_UNITS}.")] = "session",
    planned: Annotated[
        int, typer.Option(min=100, help="Requests at which the intervals are to be narrowest.")
    ] = PLANNED,
    confidence: Annotated[float, typer.Option(help="Of the intervals, over all looks.")] = CONFIDENCE,
    config: Config = None,
) -> None:
    """Divide the calls of a model among some of its arms from now on."""
    if by not in get_args(Unit):
        raise TriremeError(f"--by must be one of {_UNITS}.")
    if not 0.5 < confidence < 1:  # noqa: PLR2004
        raise TriremeError("--confidence must lie between 0.5 and 1: 0.95.")
    arms = _weights(arm)
    made = command(
        load_settings(config),
        lambda commands: commands.experiment(
            model, arms, cast(Unit, by), time.time(), planned=planned, confidence=confidence
        ),
    )
    shares = ", ".join(f"{name} {weight / sum(arms.values()):.0%}" for name, weight in arms.items())
    say(f"Experiment {made.id} divides {model}: {shares}, by {by}.")


@app.command("list")
def list_experiments(as_json: AsJson = False, config: Config = None) -> None:
    """Show all experiments that are on record, the newest first."""
    trials = with_trials(load_settings(config), lambda store, _: store.all())
    found = [one for one in trials if isinstance(one, Experiment)]
    if as_json:
        typer.echo(json.dumps([msgspec.to_builtins(one) for one in found], indent=2))
        return
    table = Table("id", "model", "arms", "by", "since", "until", box=None)
    for one in found:
        arms = " ".join(f"{name}={weight}" for name, weight in one.arms.items())
        until = "" if one.ended_at is None else shown_time(int(one.ended_at))
        table.add_row(one.id, one.model, arms, one.by, shown_time(int(one.started_at)), until)
    Console().print(table)


@app.command()
def show(experiment: ExperimentId, as_json: AsJson = False, config: Config = None) -> None:
    """Show each measure of each arm, and how sure the differences to the first arm are."""
    found, evidence = with_trials(load_settings(config), lambda store, _: store.with_evidence(experiment))
    if not isinstance(found, Experiment) or not isinstance(evidence, Evidence):
        raise TriremeError(f"{experiment} is no experiment: see trireme mirror show.")
    seen = results(found, evidence)
    if as_json:
        typer.echo(json.dumps({**_public(found), **cast(dict[str, Any], msgspec.to_builtins(seen))}, indent=2))
        return
    state = "under way" if found.under_way else "over"
    Console().print(f"{found.id}: {found.model}, by {found.by}, {state}")
    Console().print(results_table(seen))
    for warning in seen.warnings:
        say(f"Warning: {warning}.")
    say(f"Intervals are right with {found.confidence:.0%}, however often they are looked at.")


@app.command()
def stop(experiment: ExperimentId, config: Config = None) -> None:
    """Give the arms the weights that they had before; what was seen stays on record."""
    found = command(load_settings(config), lambda commands: commands.stop(experiment, time.time()))
    say(f"Experiment {found.id} of {found.model} is over: the weights are as before.")


def results_table(seen: Results) -> Table:
    table = Table("measure", "arm", "n", "value", "interval", "median", "p95", "difference", "interval", "p", box=None)
    for row in seen.rows:
        interval = "" if row.interval is None else " – ".join(_value(row, one) for one in row.interval)
        quantiles = ("" if one is None else f"{one:.0f} ms" for one in (row.median, row.p95))
        table.add_row(
            row.measure.replace("_", " "),
            row.arm,
            str(row.count),
            _value(row, row.value),
            interval or row.missing,
            *quantiles,
            *_difference(row),
        )
    return table


def _difference(row: Row) -> tuple[str, str, str]:
    if row.difference is None:
        return "", "", ""
    shown = in_times if row.kind == "times" else in_points if row.measure == "errors" else _signed
    if row.difference_interval is None or row.p_value is None:
        return shown(row.difference), row.missing, ""
    interval = " – ".join(shown(one) for one in row.difference_interval)
    return shown(row.difference), interval, f"{row.p_value:.2g}"


def _value(row: Row, value: float) -> str:
    match row.measure:
        case "errors":
            return f"{value:.2%}"
        case "time_to_first_token" | "time_per_output_token":
            return f"{value:.1f} ms"
        case "tokens":
            return f"{value:.1f}"
        case "price":
            return f"{value / 1e9:.3g}"
        case "score":
            return f"{value:.3f}"


def _signed(value: float) -> str:
    return f"{value:+.3f}"


def _weights(given: list[str]) -> dict[str, int]:
    """Raises: TriremeError."""
    weights: dict[str, int] = {}
    for one in given:
        name, _, weight = one.rpartition("=")
        if not name or not (weight.isascii() and weight.isdigit()) or int(weight) < 1:
            raise TriremeError(f"--arm {one}: write NAME=WEIGHT, with a whole number from 1.")
        if name in weights:
            raise TriremeError(f"--arm {name} is there twice.")
        weights[name] = int(weight)
    return weights


def _public(trial: Trial) -> dict[str, Any]:
    return cast(dict[str, Any], msgspec.to_builtins(trial))
