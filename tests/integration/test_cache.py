"""The cache on a real Triton and a real Valkey, for a tenant that has it."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from gateway.auth.tenants import TenantStore
from gateway.core.identity import CachePolicy
from tests.support.gateway import GatewayClient, events, wait_until
from trireme.keys import key_store, valkey
from trireme.stack import EmbeddedStack

pytestmark = pytest.mark.integration
SCOPES = frozenset({"inference"})
SLOW = {"delay_ms": 20}
CLIENTS = 12


@pytest.fixture
async def client(stack: EmbeddedStack) -> GatewayClient:
    return await client_of(stack, "remembered")


async def client_of(stack: EmbeddedStack, tenant: str) -> GatewayClient:
    async with valkey(stack.settings) as redis:
        await TenantStore(redis).ensure(tenant)
    async with key_store(stack.settings) as store:
        _, secret = await store.create(tenant=tenant, name="k", scopes=SCOPES, cache=CachePolicy(mode="exact"))
    client = GatewayClient(stack, secret)
    wait_until(lambda: client.get("/v1/models").status_code == httpx.codes.OK, "the gateway knows the key", 10.0)
    return client


def asking(client: GatewayClient, seed: int, **fields: Any) -> Callable[[], httpx.Response]:
    """`seed` tells apart what the tests ask."""
    return lambda: client.chat(seed=seed, max_tokens=8, **fields)


def running(client: GatewayClient) -> float:
    found = re.search(r"^trireme_admission_running ([\d.]+)$", client.get("/metrics").text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def test_an_answer_comes_again_in_either_form(client: GatewayClient) -> None:
    whole = asking(client, 1)()
    streamed = asking(client, 1, stream=True, stream_options={"include_usage": True})()
    assert [one.headers["x-cache"] for one in (whole, streamed)] == ["miss", "hit-exact"]
    assert whole.headers["x-model-version"] == streamed.headers["x-model-version"]
    *chunks, usage, done = events(streamed)
    assert done == {"done": True}
    text = "".join(one["choices"][0]["delta"].get("content") or "" for one in chunks)
    assert text == whole.json()["choices"][0]["message"]["content"]
    assert usage["usage"] == whole.json()["usage"]


def test_a_stream_comes_again_delta_by_delta(client: GatewayClient) -> None:
    first, again = (events(asking(client, 2, stream=True, logprobs=True, script=SLOW)()) for _ in range(2))
    assert [one.get("choices") for one in first] == [one.get("choices") for one in again]
    assert len(first) > 5


async def test_another_tenant_has_answers_of_its_own(stack: EmbeddedStack, client: GatewayClient) -> None:
    other = await client_of(stack, "stranger")
    assert [asking(one, 3)().headers["x-cache"] for one in (client, other, client)] == ["miss", "miss", "hit-exact"]


def test_many_wait_for_one_answer_and_some_of_them_leave(client: GatewayClient) -> None:
    leaving = [client.ask(seed=4, max_tokens=8, stream=number % 2 == 0, script=SLOW) for number in range(4)]
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = [pool.submit(asking(client, 4, script=SLOW)) for _ in range(CLIENTS)]
        for asker in leaving:
            asker.leave()
        found = [answer.result() for answer in answers]
    assert {answer.status_code for answer in found} == {httpx.codes.OK}
    assert len({answer.json()["choices"][0]["message"]["content"] for answer in found}) == 1
    assert {answer.headers["x-cache"] for answer in found} <= {"miss", "coalesced", "hit-exact"}
    assert sum(answer.headers["x-cache"] == "miss" for answer in found) <= 1


def test_what_nobody_waits_for_any_more_is_stopped(client: GatewayClient) -> None:
    askers = [client.ask(seed=5, max_tokens=500, stream=True, script=SLOW) for _ in range(3)]
    wait_until(lambda: running(client) == 1, "one answer is made for all")
    for asker in askers:
        asker.leave()
    wait_until(lambda: running(client) == 0, "it is stopped", 5.0)
    assert asking(client, 5, script=SLOW)().headers["x-cache"] == "miss"


def test_what_failed_is_made_again(client: GatewayClient) -> None:
    failed = client.chat(seed=6, max_tokens=8, script={"fail_at": 2})
    assert failed.status_code >= httpx.codes.BAD_REQUEST
    assert asking(client, 6)().headers["x-cache"] == "miss"
