"""`trireme usage`: what tenants, keys and models have used, from the ledger in Valkey."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from gateway.accounting.prices import NANO
from gateway.accounting.settings import AccountingSettings
from gateway.accounting.usage import MOST_DAYS, By, UsageReader, UsageRow, as_csv, decimal, today
from trireme.errors import TriremeError
from trireme.keys import refusals, valkey
from trireme.options import AsJson, Config
from trireme.settings import Settings, load_settings

_USUAL_DAYS = 30
_WIDEST = 1000
CURRENCY_VARIABLE = "TRIREME_CURRENCY"


Day = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="In UTC; included.", show_default=False)]


def usage(
    *,
    by: Annotated[By, typer.Option(help="What gets a row of its own.")] = "tenant",
    since: Day = None,
    until: Day = None,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.", show_default=False)] = None,
    as_json: AsJson = False,
    csv: Annotated[bool, typer.Option("--csv", help="For spreadsheets.")] = False,
    config: Config = None,
) -> None:
    """Show what was used: requests, tokens and their price. The last 30 days, unless told otherwise."""
    if as_json and csv:
        raise TriremeError("Choose one of --json and --csv.")
    settings = load_settings(config)
    last = until.date() if until else today()
    first = since.date() if since else last - timedelta(days=_USUAL_DAYS - 1)
    if not 0 <= (last - first).days < MOST_DAYS:
        raise TriremeError(f"--since must be at most {MOST_DAYS - 1} days before --until.")

    async def read() -> list[UsageRow]:
        with refusals():
            async with valkey(settings) as redis:
                return await UsageReader(redis).read(by, first, last, tenant)

    rows = asyncio.run(read())
    currency = currency_of(settings)
    if csv:
        typer.echo(as_csv(by, rows, currency), nl=False)
    elif as_json:
        typer.echo(json.dumps([_public(row, currency) for row in rows], indent=2))
    else:
        show(table(by, rows, currency))


def show(found: Table) -> None:
    """Numbers are never cut: where there are too many for a line, it is a long one."""
    usual = Console()
    needed = usual.measure(found, options=usual.options.update_width(_WIDEST)).maximum
    Console(width=max(usual.width, needed)).print(found)


def table(by: By, rows: Sequence[UsageRow], currency: str) -> Table:
    found = Table(by, box=None)
    used, spared = ("requests", "succeeded", "prompt", "cached", "completion"), ("hits", "spared")
    for heading in (*used, currency, *spared, "saved"):
        found.add_column(heading, justify="right")
    for row in rows:
        numbers = (getattr(row, name) for name in used)
        others = (getattr(row, name) for name in spared)
        found.add_row(row.name, *map(str, numbers), decimal(row.price), *map(str, others), decimal(row.spared_price))
    return found


def currency_of(settings: Settings, environ: Mapping[str, str] = os.environ) -> str:
    """The gateway's own setting."""
    section = settings.gateway.get("accounting") or {}
    return str(environ.get(CURRENCY_VARIABLE) or section.get("currency") or AccountingSettings().currency)


def _public(row: UsageRow, currency: str) -> dict[str, object]:
    money = {"price": row.price / NANO, "spared_price": row.spared_price / NANO}
    return {**asdict(row), **money, "currency": currency}
