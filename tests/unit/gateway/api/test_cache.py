"""Answers that were given before, through a whole gateway."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from gateway.api.keys import METRICS
from gateway.assembly.keys import OUTBOX, VALKEY
from gateway.auth.store import SCOPES, KeyStore
from gateway.core.identity import Limits
from tests.fakes.triton import FakeTriton, Script
from tests.support.proxy import FaultyProxy
from tests.unit.gateway.conftest import Gateway, StartGateway
from tests.unit.gateway.waiting import until

PATH = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0}
STREAM = BODY | {"stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture
async def caching(start: StartGateway) -> AsyncIterator[Gateway]:
    async with start(TRIREME_CACHE="exact") as running:
        yield running


async def ask(gateway: Gateway, body: dict[str, Any] = BODY, **headers: str) -> tuple[str, Any]:
    """What the cache did, and the answer."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with gateway.client.post(PATH, json=body, headers=named) as response:
        assert response.status == 200, await response.text()
        return response.headers["x-cache"], await response.json()


async def stream(gateway: Gateway, body: dict[str, Any] = STREAM) -> tuple[str, list[Any]]:
    """What the cache did, and the events without what is new in each answer."""
    async with gateway.client.post(PATH, json=body) as response:
        assert response.status == 200, await response.text()
        return response.headers["x-cache"], events_of(await response.text())


def events_of(text: str) -> list[Any]:
    payloads = [event.removeprefix("data: ") for event in text.removesuffix("\n\n").split("\n\n")]
    assert payloads.pop() == "[DONE]"
    return [{"choices": one["choices"], "usage": one["usage"]} for one in map(json.loads, payloads)]


def value(gateway: Gateway, name: str, **labels: str) -> float:
    return gateway.app[METRICS].registry.get_sample_value(name, labels) or 0.0


async def test_a_request_that_came_before_gets_its_answer_again(caching: Gateway, triton: FakeTriton) -> None:
    first, computed = await ask(caching)
    again, stored = await ask(caching)
    assert (first, again) == ("miss", "hit-exact")
    assert len(triton.requests) == 1
    assert stored["choices"] == computed["choices"]
    assert stored["usage"] == computed["usage"]
    assert stored["id"] != computed["id"]


@pytest.mark.parametrize("logprobs", [True, False])
async def test_a_stream_is_replayed_as_the_same_stream(caching: Gateway, triton: FakeTriton, logprobs: bool) -> None:
    body = STREAM | {"logprobs": logprobs, "n": 2}
    first, computed = await stream(caching, body)
    again, replayed = await stream(caching, body)
    assert (first, again) == ("miss", "hit-exact")
    assert replayed == computed
    assert len(computed) == 2 * 3 + 1
    assert len(triton.requests) == 1


async def test_streams_and_whole_answers_answer_each_other(caching: Gateway, triton: FakeTriton) -> None:
    _, events = await stream(caching)
    outcome, whole = await ask(caching)
    assert outcome == "hit-exact"
    assert whole["choices"][0]["message"]["content"] == "Hello, world"
    assert whole["usage"] == events[-1]["usage"]
    other = {"messages": [{"role": "user", "content": "Bye"}]}
    await ask(caching, BODY | other)
    outcome, events = await stream(caching, STREAM | other)
    assert outcome == "hit-exact"
    assert [event["choices"][0]["delta"]["content"] for event in events[:-1]] == ["Hello", ",", " world"]
    assert len(triton.requests) == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"messages": [{"role": "user", "content": "Ho"}]},
        {"messages": [{"role": "system", "content": "Hi"}]},
        {"max_tokens": 5},
        {"stop": ["x"]},
        {"logprobs": True},
        {"seed": 1},
        {"n": 2},
        {"logit_bias": {"1": 1}},
    ],
    ids=str,
)
async def test_what_changes_an_answer_makes_it_another_one(
    caching: Gateway, triton: FakeTriton, changed: dict[str, Any]
) -> None:
    await ask(caching)
    outcome, _ = await ask(caching, BODY | changed)
    assert outcome == "miss"
    assert len(triton.requests) == 2


async def test_who_asks_how_urgently_does_not_change_an_answer(caching: Gateway) -> None:
    await ask(caching)
    same = BODY | {"user": "me", "priority": "interactive", "metadata": {"trace": "1"}, "model": "tiny"}
    assert (await ask(caching, same))[0] == "hit-exact"


@pytest.mark.parametrize("body", [BODY | {"temperature": 0.7}, {**BODY, "temperature": None}, BODY | {"store": False}])
async def test_what_need_not_be_the_same_again_is_computed(
    caching: Gateway, triton: FakeTriton, body: dict[str, Any]
) -> None:
    outcomes = [(await ask(caching, body))[0] for _ in range(2)]
    assert outcomes == ["bypass", "bypass"]
    assert len(triton.requests) == 2


async def test_a_seed_makes_an_answer_certain(caching: Gateway) -> None:
    body = BODY | {"temperature": 1, "seed": 3}
    assert [(await ask(caching, body))[0] for _ in range(2)] == ["miss", "hit-exact"]


async def test_clients_decide_how_fresh_an_answer_must_be(caching: Gateway, triton: FakeTriton) -> None:
    await ask(caching)
    triton.script = Script(words=["New"])
    assert (await ask(caching, Cache_Control="max-age=3600"))[0] == "hit-exact"
    assert (await ask(caching, Cache_Control="no-store"))[0] == "bypass"
    assert (await ask(caching))[1]["choices"][0]["message"]["content"] == "Hello, world"
    assert (await ask(caching, Cache_Control="no-cache"))[0] == "miss"
    outcome, newer = await ask(caching)
    assert (outcome, newer["choices"][0]["message"]["content"]) == ("hit-exact", "New")
    assert (await ask(caching, Cache_Control="max-age=0"))[0] == "miss"


@pytest.mark.parametrize(
    ("header", "text"), [("Cache-Control", "max-age=soon"), ("x-cache-ttl", "-1"), ("x-cache-ttl", "1" * 40)]
)
async def test_headers_that_make_no_sense_are_refused(caching: Gateway, header: str, text: str) -> None:
    status, answer = await caching.ask(PATH, BODY, **{header.replace("-", "_"): text})
    assert (status, answer["error"]["param"]) == (400, header)


async def test_an_answer_says_how_old_it_is(caching: Gateway) -> None:
    await ask(caching)
    async with caching.client.post(PATH, json=BODY) as response:
        assert int(response.headers["age"]) < 60
        assert response.headers["x-model-version"] == "1"
        assert "cache;dur=" in response.headers["server-timing"]


@pytest.mark.parametrize("script", [Script(fail_at=1), Script(finish="abort")], ids=str)
async def test_failures_are_not_kept(caching: Gateway, triton: FakeTriton, script: Script) -> None:
    triton.script = script
    status, _ = await caching.ask(PATH, BODY)
    assert status >= 400
    triton.script = Script()
    assert (await ask(caching))[0] == "miss"


async def test_what_was_saved_is_counted(start: StartGateway) -> None:
    async with start(TRIREME_CACHE="exact", TRIREME_PROMPT_PRICE="1000000") as gateway:
        prompt = (await ask(gateway))[1]["usage"]["prompt_tokens"]
        used = value(gateway, "trireme_tokens_total", model="tiny", kind="prompt")
        await ask(gateway)
        await ask(gateway, BODY | {"temperature": 1})
        assert value(gateway, "trireme_tokens_total", model="tiny", kind="prompt") == used + prompt
        assert value(gateway, "trireme_cache_saved_tokens_total", model="tiny", kind="prompt") == prompt
        assert value(gateway, "trireme_cache_saved_tokens_total", model="tiny", kind="completion") == 3
        assert value(gateway, "trireme_cache_saved_price_total", model="tiny") == pytest.approx(prompt)
        assert value(gateway, "trireme_cache_requests_total", outcome="hit-exact", reason="") == 1
        assert value(gateway, "trireme_cache_requests_total", outcome="bypass", reason="sampled") == 1


async def test_requests_that_come_together_are_computed_once(caching: Gateway, triton: FakeTriton) -> None:
    triton.script = Script(hang_at=1)
    asking = [asyncio.create_task(ask(caching)) for _ in range(5)]
    async with asyncio.timeout(5):
        await triton.hanging.wait()
    streaming = asyncio.create_task(stream(caching))
    await until(lambda: value(caching, "trireme_requests_in_flight") == 6)
    assert len(triton.requests) == 1
    triton.go_on.set()
    outcomes = [outcome for outcome, _ in await asyncio.gather(*asking)]
    assert sorted(outcomes) == ["coalesced"] * 4 + ["miss"]
    outcome, events = await streaming
    assert outcome == "coalesced"
    assert [event["choices"][0]["delta"]["content"] for event in events[:-1]] == ["Hello", ",", " world"]
    assert value(caching, "trireme_tokens_total", model="tiny", kind="completion") == 3


async def test_another_gateway_finds_the_answer(start: StartGateway, triton: FakeTriton) -> None:
    async with start(TRIREME_CACHE="exact") as one, start(TRIREME_CACHE="exact") as other:
        await ask(one)
        await one.app[OUTBOX].flush()
        assert (await ask(other))[0] == "hit-exact"
    assert len(triton.requests) == 1


async def test_a_silent_valkey_costs_one_request_one_wait(
    start: StartGateway, store: KeyStore, triton: FakeTriton, valkey_url: str
) -> None:
    """Limits ask before the cache does; whoever asks first waits, and nobody after that."""
    patience_ms, address = 500.0, urlsplit(valkey_url)
    _, secret = await store.create(
        tenant="acme", name="limited", scopes=SCOPES, limits=Limits(requests_per_minute=1000)
    )
    limited = {"authorization": f"Bearer {secret}"}
    variables = {"TRIREME_CACHE": "exact", "TRIREME_VALKEY_CALL_TIMEOUT_S": str(patience_ms / 1000)}
    with FaultyProxy(str(address.hostname), int(address.port or 0)) as proxy:
        async with start(**variables, TRIREME_VALKEY_URL=proxy.url, TRIREME_VALKEY_RETRY_S="0.05") as gateway:
            assert (await ask(gateway, **limited))[0] == "miss"
            await gateway.app[OUTBOX].flush()
            proxy.black_hole = True
            waits = [await waited_ms(gateway, number, limited) for number in range(6)]
            assert waits[0]["limits"] >= patience_ms
            assert waits[0]["cache"] < patience_ms / 2
            assert sum(sum(one.values()) for one in waits[1:]) < patience_ms
            assert len(triton.requests) == 1 + 6
            proxy.heal()
            await until(lambda: gateway.app[VALKEY].available)
            assert (await ask(gateway, **limited))[0] == "hit-exact"


async def test_limits_and_cache_ask_valkey_in_one_round_trip(
    start: StartGateway, store: KeyStore, valkey_url: str
) -> None:
    delay_ms, address = 100.0, urlsplit(valkey_url)
    _, secret = await store.create(tenant="acme", name="limited", scopes=SCOPES, limits=Limits(requests_per_minute=99))
    limited = {"authorization": f"Bearer {secret}"}
    with FaultyProxy(str(address.hostname), int(address.port or 0)) as proxy:
        variables = {"TRIREME_CACHE": "exact", "TRIREME_VALKEY_CALL_TIMEOUT_S": "5"}
        async with start(**variables, TRIREME_VALKEY_URL=proxy.url) as gateway:
            await waited_ms(gateway, 1, limited)
            proxy.delay_s = delay_ms / 1000
            waited = await waited_ms(gateway, 2, limited)
            assert waited["limits"] >= 2 * delay_ms
            assert waited["cache"] < delay_ms
            proxy.heal()


async def waited_ms(gateway: Gateway, number: int, headers: dict[str, str]) -> dict[str, float]:
    """For limits and cache, of a request that nobody has sent before."""
    body = BODY | {"seed": number}
    async with gateway.client.post(PATH, json=body, headers=headers) as response:
        assert (response.status, response.headers["x-cache"]) == (200, "miss")
        stages = dict(one.split(";dur=") for one in response.headers["server-timing"].split(", "))
    return {name: float(stages[name]) for name in ("limits", "cache")}
