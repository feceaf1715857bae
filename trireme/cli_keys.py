"""`trireme keys`: API keys. A secret goes to standard output, once, when it is made."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from gateway.api.admin_keys import KeyObject
from gateway.auth.records import KeyRecord
from gateway.auth.store import DEFAULT_OVERLAP_S, SCOPES, KeyStore
from gateway.core.identity import NO_LIMITS, NO_QUOTAS, SERVERS_CACHE
from trireme.keys import DEFAULT_TENANT, key_store
from trireme.options import (
    AsJson,
    CacheOptions,
    Config,
    LimitOptions,
    QuotaOptions,
    shown_time,
    with_bounds,
    with_cache,
)
from trireme.settings import Settings, load_settings

app = typer.Typer(help="API keys.", no_args_is_help=True)

SECONDS_PER_DAY = 86_400
KeyId = Annotated[str, typer.Argument(metavar="KEY", help="Its id, as `keys list` shows it.")]
Result = TypeVar("Result")


class Priority(StrEnum):
    """Of requests: the most urgent class that a key may ask for."""

    interactive = "interactive"
    standard = "standard"
    batch = "batch"


@app.command()
def create(
    *,
    name: Annotated[str, typer.Option(help="What the key is for.")] = "unnamed",
    tenant: Annotated[str, typer.Option(help="Who pays and whose limits count.")] = DEFAULT_TENANT,
    scope: Annotated[
        list[str] | None,
        typer.Option(help=f"May be given more than once: {', '.join(sorted(SCOPES))}.", show_default=False),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="May be given more than once: only these models; all, when left out.", show_default=False),
    ] = None,
    max_priority: Annotated[Priority, typer.Option(help="Most urgent class that it may ask for.")] = (
        Priority.interactive
    ),
    limit: LimitOptions = None,
    quota: QuotaOptions = None,
    cache: CacheOptions = None,
    days: Annotated[int | None, typer.Option(min=1, help="Days until it expires; never, when left out.")] = None,
    config: Config = None,
) -> None:
    """Make a key. The secret goes to stdout, once; it cannot be read again. Scopes: inference and embeddings."""
    settings, expires_at = load_settings(config), None if days is None else int(time.time()) + days * SECONDS_PER_DAY
    limits, quotas = with_bounds(NO_LIMITS, limit, "--limit"), with_bounds(NO_QUOTAS, quota, "--quota")
    policy = with_cache(SERVERS_CACHE, cache)
    record, secret = with_store(
        settings,
        lambda store: store.create(
            tenant=tenant,
            name=name,
            scopes=frozenset(scope or ("inference", "embeddings")),
            models=frozenset(model) if model else None,
            max_priority=max_priority.value,
            limits=limits,
            quotas=quotas,
            cache=policy,
            expires_at=expires_at,
        ),
    )
    tell_secret(f"{record.key_id} of tenant {tenant}", secret)


@app.command("list")
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.", show_default=False)] = None,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Show all keys; secrets are not stored, so they cannot be shown."""
    found = with_store(load_settings(config), lambda store: _with_use(store, tenant))
    if as_json:
        typer.echo(json.dumps([public(record, used) for record, used in found], indent=2))
        return
    table = Table("id", "tenant", "name", "scopes", "created", "last used", "state", box=None)
    now = time.time()
    for record, used in found:
        who = (record.key_id, record.tenant, record.name, ", ".join(sorted(record.scopes)))
        table.add_row(*who, shown_time(record.created_at), shown_time(used), _state(record, now))
    Console().print(table)


@app.command()
def show(key_id: KeyId, config: Config = None) -> None:
    """Show one key, as JSON."""

    async def read(store: KeyStore) -> Any:
        return public(await store.get(key_id), await store.last_used_of(key_id))

    typer.echo(json.dumps(with_store(load_settings(config), read), indent=2))


@app.command()
def rotate(
    key_id: KeyId,
    overlap: Annotated[
        int, typer.Option(min=0, help="Seconds for which the secret that it has stays good; 0: ended at once.")
    ] = DEFAULT_OVERLAP_S,
    config: Config = None,
) -> None:
    """Give a key a new secret, which goes to stdout, once."""
    _, secret = with_store(load_settings(config), lambda store: store.rotate(key_id, overlap))
    tell_secret(f"{key_id} has a new secret, and its old one ends in {overlap} s", secret)


@app.command()
def revoke(key_id: KeyId, config: Config = None) -> None:
    """End a key at once, everywhere."""
    with_store(load_settings(config), lambda store: store.revoke(key_id))
    Console(stderr=True).print(f"{key_id} is revoked.")


def public(record: KeyRecord, last_used_at: int | None) -> Any:
    """As the admin API shows it."""
    return msgspec.to_builtins(KeyObject.of(record, last_used_at))


def tell_secret(what: str, secret: str) -> None:
    Console(stderr=True).print(f"{what}; keep the secret, it is shown only now:", soft_wrap=True)
    typer.echo(secret)


def with_store(settings: Settings, work: Callable[[KeyStore], Awaitable[Result]]) -> Result:
    async def run() -> Result:
        async with key_store(settings) as store:
            return await work(store)

    return asyncio.run(run())


async def _with_use(store: KeyStore, tenant: str | None) -> list[tuple[KeyRecord, int | None]]:
    used = await store.last_used()
    return [(record, used.get(record.key_id)) for record in await store.list(tenant)]


def _state(record: KeyRecord, now: float) -> str:
    state = record.state(now)
    if state == "revoked":
        return f"revoked {shown_time(record.revoked_at)}"
    if record.expires_at is None:
        return "valid"
    return f"{'valid until' if state == 'active' else 'expired'} {shown_time(record.expires_at)}"
