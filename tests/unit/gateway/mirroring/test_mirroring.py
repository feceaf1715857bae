"""Copies through a whole gateway, with a Triton for clients and one for copies."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from gateway.accounting.entries import Entry
from gateway.accounting.stream import STREAM
from gateway.accounting.usage import today
from gateway.api.keys import METRICS, USAGE
from gateway.core.document import KEY
from gateway.core.snapshot import Arm, BackendSpec, Mirror, ModelRoute, RoutingSnapshot, encode_snapshot
from tests.fakes.triton import FakeTriton, Script
from tests.unit.gateway.conftest import Gateway, StartGateway
from tests.unit.gateway.waiting import until

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "temperature": 0}
PATH = "/v1/chat/completions"


@pytest.fixture
async def shadow() -> AsyncIterator[FakeTriton]:
    async with FakeTriton().serve() as fake:
        yield fake


@asynccontextmanager
async def mirrored(
    start: StartGateway, redis: Redis, shadow: FakeTriton, *, exclude: tuple[str, ...] = (), **settings: str
) -> AsyncIterator[Gateway]:
    """A gateway that copies every request to `shadow`."""
    mirror = Mirror(id="mi_1", arm=Arm(name="new", group="shadow"), fraction=1.0, exclude=exclude)
    document = RoutingSnapshot(
        version=1,
        backends=(BackendSpec(id="shadow", url=shadow.url, group="shadow"),),
        models=(ModelRoute(name="tiny", arms=(Arm(name="stable"),), mirror=mirror),),
    )
    await redis.set(KEY, encode_snapshot(document))
    async with start(**settings) as gateway:
        await until(lambda: up(gateway) == 1.0)
        yield gateway


def up(gateway: Gateway) -> float | None:
    return gateway.app[METRICS].registry.get_sample_value("trireme_backend_up", {"backend": "shadow"})


def outcomes(gateway: Gateway, outcome: str) -> float:
    seen = gateway.app[METRICS].registry.get_sample_value
    return seen("trireme_mirror_total", {"model": "tiny", "outcome": outcome}) or 0.0


async def copies(redis: Redis, number: int) -> list[Entry]:
    """So many entries of copies, as soon as they are there."""
    async with asyncio.timeout(10):
        while True:
            stored = await redis.xrange(STREAM)
            entries = [msgspec.json.decode(fields[b"entry"], type=Entry) for _, fields in stored]
            found = [entry for entry in entries if entry.kind == "mirror"]
            if len(found) >= number:
                return found
            await asyncio.sleep(0.01)


async def test_a_copy_goes_to_the_other_arm_and_is_compared(
    start: StartGateway, redis: Redis, triton: FakeTriton, shadow: FakeTriton
) -> None:
    async with mirrored(start, redis, shadow, TRIREME_COMPLETION_PRICE="2") as gateway:
        status, answer = await gateway.ask(PATH, CHAT, x_request_id="one", x_priority="interactive")
        assert (status, answer["usage"]["completion_tokens"]) == (200, 3)
        (copy,) = await copies(redis, 1)
        assert (copy.request_id, copy.tenant, copy.arm, copy.outcome) == ("one", "acme", "new", "ok")
        assert (copy.priority, copy.completion_tokens, copy.price) == ("batch", 3, 6000)
        assert copy.mirrored is not None
        assert (copy.mirrored.mirror, copy.mirrored.arm, copy.mirrored.same) == ("mi_1", "stable", True)
        for pace in (copy.mirrored.original, copy.mirrored.copy):
            assert (pace.failed, pace.tokens) == (False, 3)
            assert (pace.first_token_ms or 0) > 0
        assert [one["priority"] for one in (*triton.requests, *shadow.requests)] == [0, 2]
        assert triton.requests[0]["input_ids"] == shadow.requests[0]["input_ids"]
        assert triton.requests[0]["id"] != shadow.requests[0]["id"]


async def test_nobody_pays_for_copies_and_their_cost_is_reported(
    start: StartGateway, redis: Redis, shadow: FakeTriton
) -> None:
    async with mirrored(start, redis, shadow, TRIREME_COMPLETION_PRICE="2") as gateway:
        await gateway.ask(PATH, CHAT)
        await copies(redis, 1)
        rows = {row.name: row for row in await gateway.app[USAGE].read("tenant", today(), today())}
        assert {name: (row.requests, row.price) for name, row in rows.items()} == {
            "acme": (1, 6000),
            "(mirror)": (1, 6000),
        }
        seen = gateway.app[METRICS].registry.get_sample_value
        assert seen("trireme_tenant_requests_total", {"tenant": "acme", "outcome": "ok"}) == 1.0
        assert seen("trireme_tokens_total", {"model": "tiny", "kind": "completion"}) == 3.0


@pytest.mark.parametrize(
    ("body", "words", "equal"),
    [
        (CHAT, ["Hello", ", ", "world"], True),
        (CHAT, ["Goodbye"], False),
        (CHAT | {"temperature": 0.7}, ["Hello", ",", " world"], None),
        (CHAT | {"stream": True}, ["Hello, world"], True),
    ],
    ids=["other pieces", "another text", "sampled", "streamed"],
)
async def test_only_greedy_answers_are_expected_to_be_equal(
    start: StartGateway, redis: Redis, shadow: FakeTriton, *, body: dict[str, Any], words: list[str], equal: bool | None
) -> None:
    shadow.script = Script(words=words)
    async with mirrored(start, redis, shadow) as gateway:
        async with gateway.client.post(PATH, json=body) as response:
            assert response.status == 200
            await response.read()
        (copy,) = await copies(redis, 1)
        assert copy.mirrored is not None
        assert copy.mirrored.same is equal


@pytest.mark.parametrize(
    "script",
    [Script(fail_at=0), Script(fail_at=1), Script(cut_at=1), Script(raw=b"data: nonsense\n\n")],
    ids=["refuses", "fails midway", "breaks off", "talks nonsense"],
)
async def test_clients_notice_nothing_of_an_arm_that_fails(
    start: StartGateway, redis: Redis, shadow: FakeTriton, script: Script
) -> None:
    shadow.script = script
    async with mirrored(start, redis, shadow) as gateway:
        for _ in range(3):
            status, _ = await gateway.ask(PATH, CHAT)
            assert status == 200
        for copy in await copies(redis, 3):
            assert copy.mirrored is not None
            assert (copy.mirrored.original.failed, copy.mirrored.copy.failed) == (False, True)
        assert outcomes(gateway, "failed") == 3
        circuit = gateway.app[METRICS].registry.get_sample_value("trireme_backend_circuit", {"backend": "shadow"})
        assert circuit == 0.0


async def test_copies_that_hang_are_bounded_and_end_with_the_gateway(
    start: StartGateway, redis: Redis, shadow: FakeTriton
) -> None:
    shadow.script = Script(hang_at=1)
    async with mirrored(start, redis, shadow, TRIREME_MIRROR_CONCURRENT="2") as gateway:
        for _ in range(5):
            status, _ = await gateway.ask(PATH, CHAT)
            assert status == 200
        assert outcomes(gateway, "full") == 3
        await until(lambda: shadow.running == 2)
        loop = asyncio.get_running_loop()
        before = loop.time()
    assert loop.time() - before < 5.0
    assert outcomes(gateway, "cancelled") == 2
    assert {len(await shadow.aborts.get()) for _ in range(2)} == {1}
    assert {copy.outcome for copy in await copies(redis, 2)} == {"cancelled"}


async def test_a_copy_has_a_deadline_of_its_own(start: StartGateway, redis: Redis, shadow: FakeTriton) -> None:
    shadow.script = Script(hang_at=1)
    async with mirrored(start, redis, shadow, TRIREME_MIRROR_DEADLINE_S="0.2") as gateway:
        await gateway.ask(PATH, CHAT)
        (copy,) = await copies(redis, 1)
        assert (copy.outcome, copy.code) == ("failed", "deadline_exceeded")


async def test_without_a_backend_nothing_is_copied(start: StartGateway, redis: Redis, shadow: FakeTriton) -> None:
    async with mirrored(start, redis, shadow, TRIREME_PROBE_INTERVAL_S="0.05", TRIREME_PROBE_FAILURES="1") as gateway:
        shadow.alive = False
        await until(lambda: up(gateway) == 0.0)
        status, _ = await gateway.ask(PATH, CHAT)
        assert (status, outcomes(gateway, "unavailable"), shadow.requests) == (200, 1.0, [])


async def test_what_the_client_sees_is_over_before_the_copy_begins(
    start: StartGateway, redis: Redis, triton: FakeTriton, shadow: FakeTriton
) -> None:
    triton.script = Script(hang_at=1)
    async with mirrored(start, redis, shadow) as gateway:
        asking = asyncio.create_task(gateway.ask(PATH, CHAT))
        await triton.hanging.wait()
        assert shadow.requests == []
        asking.cancel()
        await until(lambda: triton.running == 0)
        assert (outcomes(gateway, "ok"), shadow.requests) == (0.0, [])


async def test_a_failure_of_the_original_is_compared_too(
    start: StartGateway, redis: Redis, triton: FakeTriton, shadow: FakeTriton
) -> None:
    triton.script = Script(fail_at=1)
    async with mirrored(start, redis, shadow) as gateway:
        status, _ = await gateway.ask(PATH, CHAT)
        assert status == 502
        (copy,) = await copies(redis, 1)
        assert copy.mirrored is not None
        assert (copy.mirrored.original.failed, copy.mirrored.copy.failed, copy.mirrored.same) == (True, False, None)


@pytest.mark.parametrize(
    ("exclude", "settings"),
    [(("acme",), {}), ((), {"TRIREME_MIRROR_EXCLUDE": json.dumps(["acme"])})],
    ids=["by the mirroring", "by a setting"],
)
async def test_tenants_can_be_left_out(
    start: StartGateway, redis: Redis, shadow: FakeTriton, exclude: tuple[str, ...], settings: dict[str, str]
) -> None:
    async with mirrored(start, redis, shadow, exclude=exclude, **settings) as gateway:
        await gateway.ask(PATH, CHAT)
    assert shadow.requests == []
    assert [outcomes(gateway, name) for name in ("ok", "failed", "cancelled", "full", "busy")] == [0.0] * 5
