"""The command `trireme`. Every failure is a sentence on stderr and exit code 1; nothing here decides anything."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from gateway.auth.store import SCOPES, KeyRecord
from trireme.doctor import examine
from trireme.errors import TriremeError
from trireme.keys import key_store
from trireme.models import prepare_models
from trireme.serve import serve as serve_stack
from trireme.settings import Settings, load_settings
from trireme.triton import assemble_backends

app = typer.Typer(
    help="Trireme: large language models on NVIDIA Triton Inference Server.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
keys = typer.Typer(help="API keys, in the Valkey of a running stack.", no_args_is_help=True)
app.add_typer(keys, name="keys")

Config = Annotated[
    Path | None,
    typer.Option(help="YAML file with settings that differ from deploy/embedded.yaml.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def main() -> None:
    """Entry point of the `trireme` command."""
    try:
        app()
    except TriremeError as error:
        sys.exit(_complain(str(error)))


@app.command()
def serve(config: Config = None) -> None:
    """Run everything on this machine: Valkey, Triton with its models, the gateway. Ctrl-C stops it."""
    serve_stack(load_settings(config), Console())


@app.command()
def prepare(config: Config = None) -> None:
    """Make the models and Triton's backend directory, as `serve` would on its first start."""
    settings = load_settings(config)
    console = Console(stderr=True)
    with console.status("preparing"):
        prepare_models(settings, console.print)
        assemble_backends(settings.state_dir)
    console.print(f"Models in {settings.models_dir} and the backend directory are ready.", soft_wrap=True)


@app.command()
def doctor(config: Config = None) -> None:
    """Check this machine, the installation, models and ports; exit code 1 when something is wrong."""
    checks = examine(load_settings(config))
    table = Table("", "check", "found", box=None)
    for check in checks:
        mark = "[red]✗[/red]" if check.problem else "[green]✓[/green]"
        table.add_row(mark, check.name, check.found)
    Console().print(table)
    problems = [f"{check.name}: {check.problem}" for check in checks if check.problem]
    if problems:
        raise TriremeError("\n".join(["", *problems]))


@keys.command()
def create(
    name: Annotated[str, typer.Option(help="What the key is for.")] = "unnamed",
    tenant: Annotated[str, typer.Option(help="Who pays and whose limits count.")] = "default",
    scope: Annotated[
        list[str] | None,
        typer.Option(help=f"May be given more than once: {', '.join(sorted(SCOPES))}.", show_default=False),
    ] = None,
    days: Annotated[int | None, typer.Option(min=1, help="Days until it expires; never, when left out.")] = None,
    config: Config = None,
) -> None:
    """Make a key. The secret goes to stdout, once; it cannot be read again. Scopes: inference and embeddings."""
    expires_at = None if days is None else int(time.time()) + days * 86400
    scopes = frozenset(scope or ("inference", "embeddings"))
    if unknown := scopes - SCOPES:
        raise TriremeError(f"There is no scope {', '.join(sorted(unknown))}: choose among {', '.join(sorted(SCOPES))}.")
    record, secret = asyncio.run(_create(load_settings(config), tenant, name, scopes, expires_at))
    Console(stderr=True).print(f"{record.key_id} of tenant {tenant}; keep the secret, it is shown only now:")
    typer.echo(secret)


@keys.command("list")
def list_keys(as_json: AsJson = False, config: Config = None) -> None:
    """Show all keys; secrets are not stored, so they cannot be shown."""
    records = asyncio.run(_list(load_settings(config)))
    if as_json:
        typer.echo(json.dumps([_public(record) for record in records], indent=2))
        return
    table = Table("id", "tenant", "name", "scopes", "created", "state", box=None)
    now = time.time()
    for record in records:
        scopes = ", ".join(sorted(record.scopes))
        table.add_row(record.key_id, record.tenant, record.name, scopes, _date(record.created_at), _state(record, now))
    Console().print(table)


@keys.command()
def revoke(key_id: Annotated[str, typer.Argument(help="As `keys list` shows it.")], config: Config = None) -> None:
    """End a key at once."""
    if not asyncio.run(_revoke(load_settings(config), key_id)):
        raise TriremeError(f"There is no key {key_id!r} that could be revoked: see `trireme keys list`.")
    Console(stderr=True).print(f"{key_id} is revoked.")


async def _create(
    settings: Settings, tenant: str, name: str, scopes: frozenset[str], expires_at: int | None
) -> tuple[KeyRecord, str]:
    async with key_store(settings) as store:
        return await store.create(tenant=tenant, name=name, scopes=scopes, expires_at=expires_at)


async def _list(settings: Settings) -> list[KeyRecord]:
    async with key_store(settings) as store:
        return await store.list()


async def _revoke(settings: Settings, key_id: str) -> bool:
    async with key_store(settings) as store:
        return await store.revoke(key_id)


def _public(record: KeyRecord) -> dict[str, Any]:
    return {
        "id": record.key_id,
        "tenant": record.tenant,
        "name": record.name,
        "scopes": sorted(record.scopes),
        "created_at": record.created_at,
        "expires_at": record.expires_at,
        "revoked_at": record.revoked_at,
    }


def _state(record: KeyRecord, now: float) -> str:
    if record.revoked_at is not None:
        return f"revoked {_date(record.revoked_at)}"
    if record.expires_at is None:
        return "valid"
    return ("valid until " if record.expires_at > now else "expired ") + _date(record.expires_at)


def _date(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _complain(text: str) -> int:
    Console(stderr=True).print(text, soft_wrap=True, markup=False, highlight=False)
    return 1
