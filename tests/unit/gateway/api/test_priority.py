"""Which class a request waits in, and what the engine is told."""

from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis

from gateway.auth.store import KeyStore
from tests.fakes.triton import FakeTriton
from tests.unit.gateway.conftest import Gateway

PATH = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize(
    ("fields", "headers", "level"),
    [
        ({}, {}, 1),
        ({"priority": "interactive"}, {}, 0),
        ({"priority": "batch"}, {}, 2),
        ({}, {"x_priority": "batch"}, 2),
        ({"priority": "batch"}, {"x_priority": "interactive"}, 0),
    ],
)
async def test_the_engine_gets_the_level_of_the_class(
    gateway: Gateway, triton: FakeTriton, fields: dict[str, str], headers: dict[str, str], level: int
) -> None:
    status, _ = await gateway.ask(PATH, BODY | fields, **headers)
    assert status == 200
    assert triton.requests[-1]["priority"] == level


async def test_a_key_bounds_how_urgent_its_requests_are(
    gateway: Gateway, store: KeyStore, triton: FakeTriton, redis: Redis
) -> None:
    _, secret = await store.create(tenant="acme", name="bulk", scopes=frozenset({"inference"}), max_priority="batch")
    async with aiohttp.ClientSession(gateway.url, headers={"authorization": f"Bearer {secret}"}) as client:
        for headers in ({}, {"x-priority": "interactive"}):
            async with client.post(PATH, json=BODY, headers=headers) as response:
                assert response.status == 200
            assert triton.requests[-1]["priority"] == 2


@pytest.mark.parametrize(
    ("fields", "headers", "param"), [({"priority": "urgent"}, {}, "priority"), ({}, {"x_priority": "0"}, "x-priority")]
)
async def test_a_class_that_does_not_exist_is_refused_by_name(
    gateway: Gateway, fields: dict[str, str], headers: dict[str, str], param: str
) -> None:
    status, answer = await gateway.ask(PATH, BODY | fields, **headers)
    assert status == 400
    assert answer["error"]["param"] == param
    assert "interactive" in answer["error"]["message"]
