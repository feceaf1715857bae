"""`trireme tenants`: who pays, and whose limits count."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from gateway.api.admin_tenants import TenantObject
from gateway.auth.records import TenantRecord
from gateway.auth.tenants import TenantStore
from gateway.core.identity import NO_LIMITS, NO_QUOTAS, SERVERS_CACHE
from trireme.keys import tenant_store
from trireme.options import (
    AsJson,
    CacheOptions,
    Config,
    LimitOptions,
    QuotaOptions,
    shown_bounds,
    shown_time,
    with_bounds,
    with_cache,
)
from trireme.settings import Settings, load_settings

app = typer.Typer(help="Tenants: who pays, and whose limits count.", no_args_is_help=True)

Tenant = Annotated[str, typer.Argument(metavar="TENANT", help="Up to 64 letters, digits, dots, hyphens, underscores.")]
TenantName = Annotated[str | None, typer.Option("--name", help="For people.", show_default=False)]
Weight = Annotated[
    float | None, typer.Option(min=0.001, max=1000, help="Its share when tenants wait.", show_default=False)
]
Result = TypeVar("Result")


@app.command()
def create(
    tenant: Tenant,
    *,
    name: TenantName = None,
    limit: LimitOptions = None,
    quota: QuotaOptions = None,
    weight: Weight = None,
    cache: CacheOptions = None,
    config: Config = None,
) -> None:
    """Make a tenant; keys can be made for it then."""
    limits, quotas = with_bounds(NO_LIMITS, limit, "--limit"), with_bounds(NO_QUOTAS, quota, "--quota")
    policy = with_cache(SERVERS_CACHE, cache)
    with_store(
        load_settings(config),
        lambda store: store.create(
            tenant, name=name or "", limits=limits, quotas=quotas, weight=weight or 1.0, cache=policy
        ),
    )
    Console(stderr=True).print(f"Tenant {tenant} is there: make keys with `trireme keys create --tenant {tenant}`.")


@app.command("list")
def list_tenants(as_json: AsJson = False, config: Config = None) -> None:
    """Show all tenants."""
    records = with_store(load_settings(config), lambda store: store.list())
    if as_json:
        typer.echo(json.dumps([public(record) for record in records], indent=2))
        return
    table = Table("id", "name", "limits", "quotas", "weight", "created", box=None)
    for record in records:
        bounds = (shown_bounds(record.limits), shown_bounds(record.quotas), f"{record.weight:g}")
        table.add_row(record.id, record.name, *bounds, shown_time(record.created_at))
    Console().print(table)


@app.command()
def show(tenant: Tenant, config: Config = None) -> None:
    """Show one tenant, as JSON."""
    record = with_store(load_settings(config), lambda store: store.get(tenant))
    typer.echo(json.dumps(public(record), indent=2))


@app.command("set")
def set_tenant(
    tenant: Tenant,
    *,
    name: TenantName = None,
    limit: LimitOptions = None,
    quota: QuotaOptions = None,
    weight: Weight = None,
    cache: CacheOptions = None,
    config: Config = None,
) -> None:
    """Change what is given, and leave the rest as it is."""

    async def change(store: TenantStore) -> TenantRecord:
        before = await store.get(tenant)
        fields: dict[str, Any] = {
            "limits": with_bounds(before.limits, limit, "--limit"),
            "quotas": with_bounds(before.quotas, quota, "--quota"),
            "cache": with_cache(before.cache, cache),
        }
        given = {"name": name, "weight": weight}
        return await store.change(tenant, **fields, **{key: value for key, value in given.items() if value is not None})

    typer.echo(json.dumps(public(with_store(load_settings(config), change)), indent=2))


@app.command()
def delete(
    tenant: Tenant,
    force: Annotated[bool, typer.Option("--force", help="Revoke its keys as well.")] = False,
    config: Config = None,
) -> None:
    """Delete a tenant that has no keys left that work."""
    with_store(load_settings(config), lambda store: store.delete(tenant, force=force))
    Console(stderr=True).print(f"Tenant {tenant} is deleted.")


def public(record: TenantRecord) -> Any:
    """As the admin API shows it."""
    return msgspec.to_builtins(TenantObject.of(record))


def with_store(settings: Settings, work: Callable[[TenantStore], Awaitable[Result]]) -> Result:
    async def run() -> Result:
        async with tenant_store(settings) as store:
            return await work(store)

    return asyncio.run(run())
