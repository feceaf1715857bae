"""A whole gateway before a Triton with two versions of a model."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.accounting.measurements import MOST_VERSIONS
from gateway.accounting.stream import STREAM
from gateway.api.keys import METRICS, ROUTER
from gateway.auth.store import KeyStore
from gateway.core.document import KEY
from gateway.core.snapshot import Arm, ModelRoute, RoutingSnapshot, encode_snapshot
from tests.fakes.triton import FakeTriton, Script
from tests.unit.gateway.conftest import Gateway, StartGateway
from tests.unit.gateway.waiting import until

CHAT = "/v1/chat/completions"
VERSIONS = "/admin/v1/versions"
BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
SECOND = {**BODY, "model": "tiny@2"}
ARMS = (Arm(name="stable", weight=3), Arm(name="v2", triton_model="chat_2", version="2", weight=0))


@pytest.fixture
async def gateway(start: StartGateway, triton: FakeTriton, redis: Redis) -> AsyncIterator[Gateway]:
    triton.versions = {"chat": ["1"], "chat_2": ["2"], "vllm": ["1", "2"], "embed": ["1"]}
    document = RoutingSnapshot(version=1, models=(ModelRoute(name="tiny", arms=ARMS),))
    await redis.set(KEY, encode_snapshot(document))
    async with start() as running:
        await until(lambda: running.app[ROUTER].versions_of("tiny") == ["1", "2"])
        yield running


async def test_a_version_that_is_asked_for_answers(gateway: Gateway, triton: FakeTriton) -> None:
    for body, version, path in (
        (BODY, "1", "/v2/models/chat/generate_stream"),
        (SECOND, "2", "/v2/models/chat_2/versions/2/generate_stream"),
    ):
        for stream in (False, True):
            async with gateway.client.post(CHAT, json={**body, "stream": stream}) as response:
                assert response.status == 200
                assert response.headers["x-model-version"] == version
                await response.read()
            assert triton.paths[-1] == path


async def test_a_version_that_there_is_not_is_refused_with_those_that_there_are(gateway: Gateway) -> None:
    status, answer = await gateway.ask(CHAT, {**BODY, "model": "tiny@9"})
    assert (status, answer["error"]["code"], answer["error"]["param"]) == (404, "model_not_found", "model")
    assert answer["error"]["message"] == "tiny has no version '9'; its versions: 1, 2"


async def test_failures_too_are_counted_and_written_down_by_version(
    gateway: Gateway, triton: FakeTriton, redis: Redis
) -> None:
    await gateway.ask(CHAT, SECOND)
    triton.script = Script(fail_at=0)
    async with gateway.client.post(CHAT, json=SECOND) as response:
        assert (response.status, response.headers["x-model-version"]) == (502, "2")
    assert counted(gateway, version="2", outcome="ok") == 1
    assert counted(gateway, version="2", outcome="failed") == 1

    async def written() -> list[Any]:
        return [fields[b"entry"] for _, fields in await redis.xrange(STREAM)]

    async with asyncio.timeout(5):
        while len(entries := await written()) < 2:  # noqa: ASYNC110 - Valkey tells nobody
            await asyncio.sleep(0.01)
    assert all(b'"model_version":"2"' in entry and b'"arm"' not in entry for entry in entries)


async def test_the_list_tells_arms_backends_and_what_runs(gateway: Gateway, triton: FakeTriton) -> None:
    triton.script = Script(hang_at=1)
    running = asyncio.create_task(gateway.ask(CHAT, SECOND))
    await triton.hanging.wait()
    async with gateway.client.get(VERSIONS) as response:
        rows = {(row["model"], row["version"]): row for row in (await response.json())["data"]}
    running.cancel()
    assert set(rows) == {("tiny", "1"), ("tiny", "2"), ("tiny-embed", "1")}
    assert rows["tiny", "2"] == {
        "model": "tiny",
        "version": "2",
        "object": "model.version",
        "arms": [{"name": "v2", "group": "default", "weight": 0, "share": 0.0}],
        "backends": ["triton"],
        "in_flight_requests": 1,
    }
    assert (rows["tiny", "1"]["arms"][0]["share"], rows["tiny", "1"]["in_flight_requests"]) == (1.0, 0)


async def test_who_leaves_is_ended_in_the_engine_of_that_version(gateway: Gateway, triton: FakeTriton) -> None:
    for body, path in (
        (SECOND, "/v2/models/vllm/versions/2/generate"),
        (BODY, "/v2/models/vllm/versions/1/generate"),
    ):
        triton.hanging.clear()
        triton.script = Script(hang_at=1)
        running = asyncio.create_task(gateway.ask(CHAT, body))
        await triton.hanging.wait()
        running.cancel()
        async with asyncio.timeout(5):
            await triton.aborts.get()
        assert triton.abort_paths[-1] == path


async def test_models_tell_their_versions(gateway: Gateway) -> None:
    async with gateway.client.get("/v1/models") as response:
        versions = {model["id"]: model["versions"] for model in (await response.json())["data"]}
    assert versions == {"tiny": ["1", "2"], "tiny-embed": ["1"]}
    async with gateway.client.get("/v1/models/tiny@2") as response:
        assert (await response.json())["id"] == "tiny"


async def test_the_list_is_for_administrators(gateway: Gateway, store: KeyStore) -> None:
    _, secret = await store.create(tenant="acme", name="small", scopes=frozenset({"inference"}))
    async with gateway.client.get(VERSIONS, headers={"authorization": f"Bearer {secret}"}) as response:
        assert response.status == 403


async def test_numbers_of_versions_cannot_fill_the_memory(start: StartGateway, triton: FakeTriton) -> None:
    async with start() as gateway:
        for number in range(MOST_VERSIONS + 3):
            triton.versions = {"chat": [str(number + 1)], "vllm": [str(number + 1)]}
            triton.script = Script(words=["x"])
            await gateway.app[ROUTER].examine()
            await gateway.ask(CHAT, {**BODY, "model": f"tiny@{number + 1}"})
        labels = gateway.app[METRICS].version_requests.collect()
        found = {sample.labels["version"] for family in labels for sample in family.samples}
        assert len(found) <= MOST_VERSIONS + 1


def counted(gateway: Gateway, **labels: str) -> float | None:
    registry = gateway.app[METRICS].registry
    return registry.get_sample_value("trireme_version_requests_total", {"model": "tiny", **labels})
