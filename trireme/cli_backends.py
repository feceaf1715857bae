"""`trireme backends`: the Triton servers of a running gateway, by its admin API."""

from __future__ import annotations

import json
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console
from rich.table import Table

from trireme.admin import Key, Url, gateway_of
from trireme.options import AsJson, Config
from trireme.terminal import say

app = typer.Typer(help="Triton servers behind the gateway.", no_args_is_help=True)

PATH = "/admin/v1/backends"

Identifier = Annotated[str, typer.Argument(metavar="ID", help="As `backends list` shows it.")]


@app.command("list")
def list_backends(as_json: AsJson = False, url: Url = None, key: Key = None, config: Config = None) -> None:
    """Show all backends, as the gateway sees them now."""
    rows = gateway_of(url, key, config).ask("GET", PATH)["data"]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("id", "url", "group", "state", "requests", "tokens", "saturation", box=None)
    for row in rows:
        numbers = (str(row["in_flight_requests"]), str(row["in_flight_tokens"]), f"{row['saturation']:.0%}")
        table.add_row(row["id"], row["url"], row["group"], _state(row), *numbers)
    Console().print(table)


@app.command()
def add(
    identifier: Annotated[str, typer.Argument(metavar="ID", help="A name of its own.")],
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="Triton's HTTP address: http://host:8000.")],
    *,
    group: Annotated[str, typer.Option(help="Which arms of models use it.")] = "default",
    model: Annotated[
        list[str] | None,
        typer.Option(help="May be given more than once: only these models; all, when left out.", show_default=False),
    ] = None,
    capacity: Annotated[
        int | None, typer.Option(min=1, help="Tokens that it runs at the same time; else what its engine says.")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="Its metrics page, http://host:8002/metrics: tells what waits in it.")
    ] = None,
    url: Url = None,
    key: Key = None,
    config: Config = None,
) -> None:
    """Use one more Triton server, from its first token on."""
    body = {"id": identifier, "url": address, "group": group, "models": model, "capacity_tokens": capacity}
    body["metrics_url"] = metrics
    gateway_of(url, key, config).ask("POST", PATH, body)
    say(f"{identifier} is added; it gets requests as soon as it has generated a token.")


@app.command()
def remove(identifier: Identifier, url: Url = None, key: Key = None, config: Config = None) -> None:
    """Use a server no more; what runs there may finish."""
    gateway_of(url, key, config).ask("DELETE", _path(identifier))
    say(f"{identifier} is removed.")


@app.command()
def drain(identifier: Identifier, url: Url = None, key: Key = None, config: Config = None) -> None:
    """Send a server nothing new; `backends list` shows when nothing runs there any more."""
    row = gateway_of(url, key, config).ask("POST", f"{_path(identifier)}/drain")
    say(f"{identifier} gets nothing new; {row['in_flight_requests']} requests still run there.")


@app.command()
def undrain(identifier: Identifier, url: Url = None, key: Key = None, config: Config = None) -> None:
    """Use a drained server again."""
    gateway_of(url, key, config).ask("POST", f"{_path(identifier)}/undrain")
    say(f"{identifier} is used again.")


def _state(row: dict[str, Any]) -> str:
    """In a few words."""
    if row["draining"]:
        return "draining"
    if not row["healthy"]:
        return f"down: {row['reason']}"
    return "healthy" if row["circuit"] == "closed" else f"left out ({row['circuit'].replace('_', ' ')})"


def _path(identifier: str) -> str:
    return f"{PATH}/{quote(identifier, safe='')}"
