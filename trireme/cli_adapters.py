"""`trireme adapters`: LoRA adapters of a running gateway, by its admin API."""

from __future__ import annotations

import json
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from gateway.core.identity import NO_LIMITS
from trireme.admin import Key, Url, gateway_of
from trireme.options import AsJson, Config, LimitOptions, with_bounds
from trireme.terminal import say

app = typer.Typer(help="LoRA adapters: models that share a base model.", no_args_is_help=True)

PATH = "/admin/v1/adapters"
Name = Annotated[str, typer.Argument(metavar="NAME", help="What clients write as the model.")]
Revision = Annotated[str, typer.Argument(metavar="REVISION", help="One set of files: a number, or any short word.")]


@app.command("list")
def list_adapters(as_json: AsJson = False, url: Url = None, key: Key = None, config: Config = None) -> None:
    """Show all adapters, their revisions, and which backends have them in memory."""
    rows = gateway_of(url, key, config).ask("GET", PATH)["data"]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("name", "base", "revision", "", "rank", "MB", "loaded by", box=None)
    for row in rows:
        for one in row["revisions"]:
            state = _state(row, one)
            size = f"{one['bytes'] / 1e6:.1f}"
            table.add_row(
                row["id"], row["base"], one["revision"], state, str(one["rank"]), size, ", ".join(one["loaded"])
            )
    Console().print(table)


@app.command()
def add(
    name: Name,
    revision: Revision,
    *,
    path: Annotated[
        str | None,
        typer.Option(help="Its directory, below the adapters' root; NAME/REVISION when left out.", show_default=False),
    ] = None,
    base: Annotated[str | None, typer.Option(help="The model that it adapts.", show_default=False)] = None,
    checksum: Annotated[str | None, typer.Option(help="What the files must have.", show_default=False)] = None,
    promote: Annotated[bool, typer.Option("--promote", help="The name means this revision from now on.")] = False,
    limit: LimitOptions = None,
    url: Url = None,
    key: Key = None,
    config: Config = None,
) -> None:
    """Check the files and register them; the first revision of a name can be asked for at once."""
    limits = msgspec.to_builtins(with_bounds(NO_LIMITS, limit, "--limit"))
    body = {"name": name, "revision": revision, "path": path, "base": base, "checksum": checksum}
    row = gateway_of(url, key, config).ask("POST", PATH, {**body, "promote": promote, "limits": limits})
    (added,) = [one for one in row["revisions"] if one["revision"] == revision]
    say(f"{name} has the revision {revision}, rank {added['rank']}, {added['checksum']}.")


@app.command()
def remove(
    name: Name,
    revision: Annotated[str | None, typer.Option(help="Only this one.", show_default=False)] = None,
    url: Url = None,
    key: Key = None,
    config: Config = None,
) -> None:
    """Refuse new requests; those that run may finish, and the files stay."""
    query = "" if revision is None else f"?revision={quote(revision, safe='')}"
    gateway_of(url, key, config).ask("DELETE", f"{_path(name)}{query}")
    say(f"{name} is removed." if revision is None else f"Revision {revision} of {name} is removed.")


@app.command()
def promote(name: Name, revision: Revision, url: Url = None, key: Key = None, config: Config = None) -> None:
    """Let the name mean another revision; requests that run keep theirs."""
    gateway_of(url, key, config).ask("POST", f"{_path(name)}/promote", {"revision": revision})
    say(f"{name} means revision {revision} now.")


@app.command()
def pin(name: Name, url: Url = None, key: Key = None, config: Config = None) -> None:
    """Keep the current revision in every engine's memory."""
    gateway_of(url, key, config).ask("PATCH", _path(name), {"pinned": True})
    say(f"{name} is pinned; `adapters list` shows who has it.")


@app.command()
def unpin(name: Name, url: Url = None, key: Key = None, config: Config = None) -> None:
    """Let engines evict it again when nobody asks for it."""
    gateway_of(url, key, config).ask("PATCH", _path(name), {"pinned": False})
    say(f"{name} is not pinned any more.")


def _state(row: dict[str, Any], revision: dict[str, Any]) -> str:
    if not revision["current"]:
        return ""
    return "current, pinned" if row["pinned"] else "current"


def _path(name: str) -> str:
    return f"{PATH}/{quote(name, safe='')}"
