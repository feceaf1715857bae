"""The ledger through the gateway: what requests leave in it, and GET /admin/v1/usage."""

from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from gateway.accounting.entries import Entry
from gateway.accounting.stream import STREAM
from gateway.accounting.usage import today
from gateway.api.keys import ENTRIES, METRICS
from gateway.assembly.keys import OUTBOX
from tests.fakes.triton import FakeTriton, Script
from tests.unit.gateway.conftest import Gateway, StartGateway

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}


async def usage(gateway: Gateway, **query: str) -> tuple[int, Any]:
    async with gateway.client.get("/admin/v1/usage", params=query) as response:
        return response.status, await response.json()


async def test_requests_are_in_the_ledger_with_the_usage_that_the_client_saw(start: StartGateway) -> None:
    async with start(TRIREME_PROMPT_PRICE="1.5", TRIREME_COMPLETION_PRICE="2", TRIREME_CURRENCY="EUR") as gateway:
        status, answer = await gateway.ask("/v1/chat/completions", CHAT)
        assert status == 200
        refused, _ = await gateway.ask("/v1/chat/completions", {"model": "tiny"})
        assert refused == 400
        await gateway.app[OUTBOX].flush()
        status, found = await usage(gateway, by="tenant")
    assert status == 200
    seen = answer["usage"]
    assert found["object"] == "list"
    assert found["data"] == [
        {
            "object": "usage",
            "name": "acme",
            "requests": 2,
            "succeeded": 1,
            "prompt_tokens": seen["prompt_tokens"],
            "cached_tokens": seen["prompt_tokens_details"]["cached_tokens"],
            "completion_tokens": seen["completion_tokens"],
            "price": pytest.approx((1.5 * seen["prompt_tokens"] + 2 * seen["completion_tokens"]) / 1e6),
            "currency": "EUR",
            "cache_hits": 0,
            "spared_tokens": 0,
            "spared_price": 0,
        }
    ]


async def test_what_the_cache_spared_has_its_own_sums(start: StartGateway) -> None:
    async with start(TRIREME_CACHE="exact", TRIREME_COMPLETION_PRICE="2") as gateway:
        for _ in range(3):
            _, answer = await gateway.ask("/v1/chat/completions", CHAT | {"temperature": 0})
            await gateway.app[OUTBOX].flush()
        _, found = await usage(gateway, by="model")
    seen, [row] = answer["usage"], found["data"]
    assert (row["requests"], row["cache_hits"]) == (3, 2)
    assert (row["completion_tokens"], row["spared_tokens"]) == (seen["completion_tokens"], 2 * seen["total_tokens"])
    assert row["spared_price"] == pytest.approx(2 * row["price"])


async def test_an_answer_that_breaks_off_used_the_prompts_that_were_begun_and_the_tokens_that_came(
    start: StartGateway, triton: FakeTriton, redis: Redis
) -> None:
    triton.script = Script(fail_at=2)
    async with start(TRIREME_PROMPTS_AT_ONCE="1") as gateway:
        status, _ = await gateway.ask("/v1/completions", {"model": "tiny", "prompt": ["abcd", "never begun"]})
        await gateway.app[OUTBOX].flush()
    assert status == 502
    [(_, fields)] = await redis.xrange(STREAM)
    entry = msgspec.json.decode(fields[b"entry"], type=Entry)
    assert (entry.outcome, entry.prompt_tokens, entry.completion_tokens) == ("failed", 4, 2)


async def test_a_failure_before_the_first_token_used_nothing(
    gateway: Gateway, triton: FakeTriton, redis: Redis
) -> None:
    triton.script = Script(fail_at=0)
    await gateway.ask("/v1/chat/completions", CHAT)
    await gateway.app[OUTBOX].flush()
    [(_, fields)] = await redis.xrange(STREAM)
    entry = msgspec.json.decode(fields[b"entry"], type=Entry)
    assert (entry.outcome, entry.prompt_tokens, entry.completion_tokens) == ("failed", 0, 0)


async def test_other_addresses_leave_nothing_in_the_ledger(gateway: Gateway, redis: Redis) -> None:
    await gateway.ask("/tokenize", {"model": "tiny", "prompt": "x"})
    async with gateway.client.get("/v1/models") as response:
        assert response.status == 200
    await gateway.app[OUTBOX].flush()
    assert await redis.exists(STREAM) == 0


async def test_metrics_name_tenant_and_key(gateway: Gateway) -> None:
    await gateway.ask("/v1/chat/completions", CHAT)
    await gateway.app[OUTBOX].flush()
    value = gateway.app[METRICS].registry.get_sample_value
    assert value("trireme_tenant_requests_total", {"tenant": "acme", "outcome": "ok"}) == 1
    assert value("trireme_ledger_written_total") == 1


async def test_usage_for_spreadsheets(gateway: Gateway) -> None:
    await gateway.ask("/v1/embeddings", {"model": "tiny-embed", "input": "hi"})
    await gateway.app[OUTBOX].flush()
    async with gateway.client.get("/admin/v1/usage", params={"by": "model", "format": "csv"}) as response:
        assert response.content_type == "text/csv"
        lines = (await response.text()).splitlines()
    assert lines[0].startswith("model,requests,succeeded,")
    assert lines[1].startswith("tiny-embed,1,1,")


async def test_a_day_without_requests_is_empty(gateway: Gateway) -> None:
    await gateway.ask("/v1/chat/completions", CHAT)
    await gateway.app[OUTBOX].flush()
    assert (await usage(gateway, since="2020-01-01", until="2020-01-31"))[1]["data"] == []
    assert len((await usage(gateway, since=today().isoformat()))[1]["data"]) == 1


@pytest.mark.parametrize(
    ("query", "param", "code"),
    [
        ({"by": "colour"}, "by", "invalid_value"),
        ({"since": "yesterday"}, "since", "invalid_value"),
        ({"until": "2026-02-30"}, "until", "invalid_value"),
        ({"since": "2026-02-02", "until": "2026-02-01"}, "since", "invalid_value"),
        ({"since": "2020-01-01", "until": "2026-01-01"}, "since", "invalid_value"),
        ({"format": "xml"}, "format", "invalid_value"),
        ({"colour": "red"}, "colour", "unknown_parameter"),
    ],
)
async def test_a_wrong_question_is_refused_by_name(
    gateway: Gateway, query: dict[str, str], param: str, code: str
) -> None:
    status, answer = await usage(gateway, **query)
    assert (status, answer["error"]["param"], answer["error"]["code"]) == (400, param, code)


async def test_readiness_tells_what_waits_in_the_spool(gateway: Gateway) -> None:
    assert gateway.app[ENTRIES].state == "ok"
    async with gateway.client.get("/health/ready") as response:
        assert (await response.json())["checks"]["ledger"] == "ok"
