"""`trireme cache`: stored answers, by the admin API of a running gateway."""

from __future__ import annotations

import json
from typing import Annotated
from urllib.parse import urlencode

import typer
from rich.console import Console
from rich.table import Table

from trireme.admin import Key, Url, gateway_of
from trireme.errors import TriremeError
from trireme.options import AsJson, Config
from trireme.terminal import say

app = typer.Typer(help="Answers that are kept for requests that come again.", no_args_is_help=True)

PATH = "/admin/v1/cache"
Tenant = Annotated[
    str | None, typer.Option(help="Only this tenant's; `*` for what all share; all, when left out.", show_default=False)
]


@app.command()
def stats(
    tenant: Tenant = None, as_json: AsJson = False, url: Url = None, key: Key = None, config: Config = None
) -> None:
    """Show how much is kept for each tenant."""
    rows = gateway_of(url, key, config).ask("GET", _path(tenant=tenant))["data"]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("tenant", "answers", "bytes", box=None)
    for row in rows:
        table.add_row(row["tenant"], str(row["answers"]), str(row["bytes"]))
    Console().print(table)


@app.command()
def purge(
    *,
    tenant: Tenant = None,
    model: Annotated[str | None, typer.Option(help="Only answers of this model.", show_default=False)] = None,
    prefix: Annotated[
        str | None, typer.Option(help="Only answers whose names begin so: MODEL@VERSION/.", show_default=False)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All answers of all tenants.")] = False,
    url: Url = None,
    key: Key = None,
    config: Config = None,
) -> None:
    """Throw stored answers away. Other gateways may give them for one more second."""
    if not (everything or tenant or model or prefix):
        raise TriremeError("Say what to purge: --tenant, --model or --prefix, or --all.")
    path = _path(tenant=tenant, model=model, prefix=prefix)
    gone = gateway_of(url, key, config).ask("DELETE", path)["answers"]
    say(f"{gone} answers are gone.")


def _path(**query: str | None) -> str:
    given = {name: value for name, value in query.items() if value is not None}
    return f"{PATH}?{urlencode(given)}" if given else PATH
