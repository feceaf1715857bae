"""A cluster of three real nodes."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import Gauge
from redis.crc import key_slot

from gateway.auth.store import KeyStore
from gateway.auth.tenants import TenantStore
from gateway.config import load
from gateway.core.identity import Limits
from gateway.valkey.client import client
from gateway.valkey.cluster import ClusterWire
from gateway.valkey.connection import Script, ScriptCall, Valkey, ValkeyAway, ValkeySettings
from tests.support.cluster import NODES, SLOTS, Cluster, cluster
from tests.unit.gateway.conftest import PEPPER, running_gateway

ADD = Script.of("return redis.call('INCRBY', KEYS[1], ARGV[1])")
TENANTS = [f"tenant-{number}" for number in range(30)]
CHAT = "/v1/chat/completions"
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Cluster]:
    with cluster(tmp_path / "cluster") as running:
        yield running


def add(tenant: str) -> ScriptCall:
    return ScriptCall(ADD, [f"trireme:{{t:{tenant}}}:sum"], [1])


def valkey_of(nodes: Cluster, degraded: Gauge) -> tuple[Valkey, ClusterWire]:
    wire = ClusterWire(nodes.url)
    return Valkey(wire, ValkeySettings(call_timeout_s=2.0, failures=1000), degraded), wire


async def test_scripts_run_where_their_keys_are(nodes: Cluster, degraded: Gauge) -> None:
    valkey, wire = valkey_of(nodes, degraded)
    assert await asyncio.gather(*(valkey.run(add(tenant)) for tenant in TENANTS)) == [1] * len(TENANTS)
    assert await valkey.run_all([add(tenant) for tenant in TENANTS], 2.0) == [2] * len(TENANTS)
    before = nodes.scripts_run()
    assert min(before) > 0
    assert await valkey.run_all([add(tenant) for tenant in TENANTS], 2.0) == [3] * len(TENANTS)
    run = [after - earlier for after, earlier in zip(nodes.scripts_run(), before, strict=True)]
    assert sum(run) == len(TENANTS), "what was learned is used: nobody is asked in vain"
    wire.drop()


async def test_what_has_no_key_is_asked_of_one_node(nodes: Cluster) -> None:
    wire = ClusterWire(nodes.url)
    before = wire.connected
    await wire.ask([(b"SCRIPT", b"LOAD", ADD.source)])
    assert await wire.ask([(b"COMMAND", b"INFO", b"FT.SEARCH")]) == [[None]]
    assert (before, wire.connected) == (False, True)
    wire.drop()


async def test_a_node_that_is_lost_costs_its_own_tenants_only(nodes: Cluster, degraded: Gauge) -> None:
    """Also when it is the one whose address is in the settings."""
    for node in nodes.nodes:
        node.config_set("cluster-require-full-coverage", "no")
    valkey, wire = valkey_of(nodes, degraded)
    await valkey.run_all([add(tenant) for tenant in TENANTS], 2.0)
    nodes.kill(0)
    first = {tenant for tenant in TENANTS if key_slot(add(tenant).keys[0].encode()) < SLOTS // NODES}
    for tenant in TENANTS:
        await answer_of(valkey, tenant)  # whoever finds the connection broken learns of it
    answers = {tenant: await answer_of(valkey, tenant) for tenant in TENANTS}
    assert {tenant for tenant, answer in answers.items() if answer is None} == first
    assert first
    wire.drop()


async def answer_of(valkey: Valkey, tenant: str) -> int | None:
    try:
        return int(await valkey.run(add(tenant)))
    except ValkeyAway:
        return None


async def test_a_gateway_keeps_keys_limits_and_ledger_in_it(nodes: Cluster, environment: dict[str, str]) -> None:
    async with client(nodes.url, cluster=True, connections=4, timeout_s=2.0) as redis:
        await TenantStore(redis).create("acme")
        _, secret = await KeyStore(redis, PEPPER).create(
            tenant="acme", name="few", scopes=frozenset({"inference"}), limits=Limits(requests_per_minute=2)
        )
        variables = {
            "TRIREME_VALKEY_URL": nodes.url,
            "TRIREME_VALKEY_CLUSTER": "true",
            "TRIREME_VALKEY_CALL_TIMEOUT_S": "2",
        }
        async with running_gateway(load(environment | variables), secret) as gateway:
            statuses = [(await gateway.ask(CHAT, BODY))[0] for _ in range(3)]
            assert statuses == [200, 200, 429]
            _, other = await KeyStore(redis, PEPPER).create(tenant="acme", name="b", scopes=frozenset({"inference"}))
            async with gateway.client.post(CHAT, json=BODY, headers={"authorization": f"Bearer {other}"}) as response:
                assert response.status == 200
        assert await redis.xlen("trireme:{ledger}:entries") == 4
        assert sum(nodes.scripts_run()) > 0


async def test_a_key_that_is_revoked_is_heard_of_on_any_node(nodes: Cluster, environment: dict[str, str]) -> None:
    async with client(nodes.url, cluster=True, connections=4, timeout_s=2.0) as redis:
        await TenantStore(redis).create("acme")
        keys = KeyStore(redis, PEPPER)
        record, secret = await keys.create(tenant="acme", name="short", scopes=frozenset({"inference"}))
        variables = {"TRIREME_VALKEY_URL": nodes.url, "TRIREME_VALKEY_CLUSTER": "true"}
        async with running_gateway(load(environment | variables), secret) as gateway:
            assert (await gateway.ask(CHAT, BODY))[0] == 200
            await keys.revoke(record.key_id)
            async with asyncio.timeout(1):
                while (await gateway.ask(CHAT, BODY))[0] != 401:
                    pass
