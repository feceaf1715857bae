"""Answers to other words, with MiniLM on a real Triton and a real Valkey; the engine is scripted."""

import re
from collections.abc import Iterator
from itertools import count

import httpx
import pytest

from gateway.auth.tenants import TenantStore
from gateway.core.identity import CachePolicy
from tests.support.gateway import GatewayClient, wait_until
from trireme.keys import key_store, valkey
from trireme.stack import EmbeddedStack, isolated_settings
from trireme.triton_control import TritonControl

pytestmark = pytest.mark.integration
TENANTS = count()
FIRST = "How do I reset my password?"
AGAIN = "How can I reset my password"
PATIENCE_S = 10.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    state = tmp_path_factory.mktemp("stack")
    # Two cores that are busy with other tests take longer for an embedding than a request should wait. A hit tells that
    # an answer is in Valkey only if the gateway keeps none by itself.
    gateway = {"cache": {"semantic_timeout_s": 5.0, "local_s": 0.0}, "triton": {"plan_timeout_s": 5.0}}
    settings = isolated_settings(state, engine="scripted", embedding_args={"scripted": False}, gateway=gateway)
    with EmbeddedStack(settings) as running:
        yield running


@pytest.fixture
async def client(stack: EmbeddedStack) -> GatewayClient:
    return await client_of(stack, f"words-{next(TENANTS)}")


async def client_of(stack: EmbeddedStack, tenant: str) -> GatewayClient:
    async with valkey(stack.settings) as redis:
        await TenantStore(redis).ensure(tenant)
    async with key_store(stack.settings) as store:
        scopes = frozenset({"inference", "admin"})
        _, secret = await store.create(tenant=tenant, name="k", scopes=scopes, cache=CachePolicy(mode="semantic"))
    client = GatewayClient(stack, secret)
    wait_until(lambda: client.get("/v1/models").status_code == httpx.codes.OK, "the gateway knows the key", PATIENCE_S)
    return client


def ask(client: GatewayClient, text: str, **fields: object) -> httpx.Response:
    messages = [{"role": "user", "content": text}]
    return client.chat(messages=messages, max_tokens=8, temperature=0, **fields)


def outcome(response: httpx.Response) -> str:
    assert response.status_code == httpx.codes.OK, response.text
    return response.headers["x-cache"]


def keep(client: GatewayClient, text: str) -> httpx.Response:
    """Ask, and until the answer is in Valkey."""
    first = ask(client, text)
    wait_until(lambda: outcome(ask(client, text)) == "hit-exact", "it is kept", PATIENCE_S)
    return first


def content(response: httpx.Response) -> str:
    text: str = response.json()["choices"][0]["message"]["content"]
    return text


def test_other_words_get_the_same_answer_and_say_so(client: GatewayClient) -> None:
    first, again = keep(client, FIRST), ask(client, AGAIN)
    assert (outcome(first), outcome(again)) == ("miss", "hit-semantic")
    assert content(again) == content(first)
    assert float(again.headers["x-cache-similarity"]) >= 0.92
    assert int(again.headers["age"]) >= 0
    assert "semantic;dur=" in again.headers["server-timing"]
    streamed = ask(client, AGAIN + "?", stream=True)
    assert outcome(streamed) == "hit-semantic"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Who won the world cup in 2010?", "Who won the world cup in 2014?"),
        ("Can dogs eat chocolate?", "Can dogs not eat chocolate?"),
        ("Does Alice love Bob?", "Does Bob love Alice?"),
        ("How do I start the old engine?", "How do I stop the old engine?"),
        ("How do I fly from Rome to Oslo?", "How do I fly from Oslo to Rome?"),
    ],
)
def test_what_only_looks_alike_is_computed(client: GatewayClient, one: str, other: str) -> None:
    keep(client, one)
    assert outcome(ask(client, other)) == "miss"


async def test_another_tenant_gets_nothing_of_it(stack: EmbeddedStack, client: GatewayClient) -> None:
    stranger = await client_of(stack, f"words-{next(TENANTS)}")
    keep(client, FIRST)
    assert outcome(ask(stranger, AGAIN)) == "miss"
    assert outcome(ask(client, AGAIN)) == "hit-semantic"


def test_a_purge_holds_for_other_words_too(stack: EmbeddedStack, client: GatewayClient) -> None:
    keep(client, FIRST)
    assert outcome(ask(client, AGAIN)) == "hit-semantic"
    purged = httpx.delete(f"{stack.gateway_url}/admin/v1/cache", headers=client.headers, timeout=30)
    assert purged.json()["answers"] >= 1
    assert outcome(ask(client, AGAIN)) == "miss"


def test_a_gateway_that_begins_again_knows_what_was_asked(stack: EmbeddedStack, client: GatewayClient) -> None:
    keep(client, FIRST)
    stack.kill("gateway")
    wait_until(lambda: not client.ready(), "it is gone", PATIENCE_S)
    wait_until(client.ready, "it is back")
    wait_until(lambda: outcome(ask(client, AGAIN)) == "hit-semantic", "it knows", PATIENCE_S)


def test_without_the_encoder_everything_is_answered(stack: EmbeddedStack, client: GatewayClient) -> None:
    """MiniLM is taken out of Triton, for good: this must be the last test. Requests go on without an embedding."""
    TritonControl(stack.triton_grpc_url).unload("embed")
    assert {outcome(ask(client, f"What is the number {number}?")) for number in range(4)} == {"miss"}
    skipped = re.findall(r'^trireme_cache_semantic_total\{outcome="skipped".*$', client.get("/metrics").text, re.M)
    assert skipped
