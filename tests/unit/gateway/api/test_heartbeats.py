"""Streams that wait for their turn: what goes over the wire meanwhile, and how they end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import openai
import pytest

from gateway.api.keys import GATE
from tests.fakes.triton import FakeTriton, Script
from tests.unit.gateway.conftest import Gateway, StartGateway
from tests.unit.gateway.waiting import until

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
STREAM = {**BODY, "stream": True}
BATCH = {"x-priority": "batch"}
FIRST = b": waiting, position 1\n"


@asynccontextmanager
async def full_gateway(start: StartGateway, triton: FakeTriton) -> AsyncIterator[tuple[Gateway, asyncio.Task[Any]]]:
    """Its only place is taken until the task is cancelled; what comes then is answered at once."""
    triton.script = Script(hang_at=0)
    async with start(TRIREME_MAX_RUNNING="1", TRIREME_HEARTBEAT_S="0.01") as gateway:
        holder = asyncio.create_task(gateway.ask(CHAT, BODY))
        await triton.hanging.wait()
        triton.script = Script()
        try:
            yield gateway, holder
        finally:
            holder.cancel()


async def lines_after_heartbeats(response: aiohttp.ClientResponse) -> list[bytes]:
    return [line for line in (await response.read()).splitlines() if line and not line.startswith(b": waiting")]


async def test_comments_come_until_the_turn_does_and_then_the_answer(start: StartGateway, triton: FakeTriton) -> None:
    async with (
        full_gateway(start, triton) as (gateway, holder),
        gateway.client.post(CHAT, json=STREAM, headers=BATCH) as response,
    ):
        assert (response.status, response.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert [await response.content.readline() for _ in range(4)] == [FIRST, b"\n", FIRST, b"\n"]
        holder.cancel()
        lines = await lines_after_heartbeats(response)
    assert [line[:6] for line in lines] == [b"data: "] * len(lines)
    assert lines[-1] == b"data: [DONE]"


async def test_the_openai_client_reads_such_a_stream(start: StartGateway, triton: FakeTriton, secret: str) -> None:
    async with full_gateway(start, triton) as (gateway, holder):
        client = openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=secret, max_retries=0)
        messages: Any = BODY["messages"]
        stream = await client.chat.completions.create(model="tiny", messages=messages, stream=True, extra_headers=BATCH)
        assert gateway.app[GATE].queued == 1, "the headers came with a heartbeat"
        holder.cancel()
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        await client.close()
    assert text == "Hello, world"


async def test_a_refusal_after_a_heartbeat_is_an_error_event(start: StartGateway, triton: FakeTriton) -> None:
    async with (
        full_gateway(start, triton) as (gateway, _),
        gateway.client.post(CHAT, json=STREAM, headers=BATCH) as response,
    ):
        assert await response.content.readline() == FIRST
        gateway.app[GATE].close()
        (line,) = await lines_after_heartbeats(response)
    assert response.status == 200
    assert b'"code":"shutting_down"' in line


@pytest.mark.parametrize("kind", [{"json": BODY, "headers": BATCH}, {"json": STREAM}], ids=["whole", "standard"])
async def test_others_get_their_status_as_ever(start: StartGateway, triton: FakeTriton, kind: dict[str, Any]) -> None:
    async with full_gateway(start, triton) as (gateway, _):
        asking = asyncio.create_task(gateway.client.post(CHAT, **kind))
        await until(lambda: gateway.app[GATE].queued == 1)
        async with gateway.client.post(CHAT, json=STREAM, headers=BATCH) as witness:
            assert (await witness.content.readline()).startswith(b": waiting")
        gateway.app[GATE].close()
        async with await asking as response:
            assert response.status == 503


async def test_a_client_that_leaves_after_a_heartbeat_gives_its_place_up(
    start: StartGateway, triton: FakeTriton
) -> None:
    async with full_gateway(start, triton) as (gateway, _):
        async with gateway.client.post(CHAT, json=STREAM, headers=BATCH) as response:
            assert await response.content.readline() == FIRST
            response.close()
        await until(lambda: gateway.app[GATE].queued == 0)


async def test_heartbeats_are_not_part_of_an_answer_that_is_kept(start: StartGateway, triton: FakeTriton) -> None:
    headers = {**BATCH, "idempotency-key": "once"}
    async with full_gateway(start, triton) as (gateway, holder):
        async with gateway.client.post(CHAT, json=STREAM, headers=headers) as response:
            assert await response.content.readline() == FIRST
            holder.cancel()
            first = await lines_after_heartbeats(response)
        async with gateway.client.post(CHAT, json=STREAM, headers=headers) as response:
            assert response.headers["idempotent-replayed"] == "true"
            again = (await response.read()).splitlines()
    assert [line for line in again if line] == first


async def test_a_stream_that_got_heartbeats_is_tried_on_a_second_backend(
    start: StartGateway, triton: FakeTriton
) -> None:
    async with FakeTriton().serve() as broken:
        broken.script = Script(fail_at=0)
        backends = f'[{{"id": "a", "url": "{triton.url}"}}, {{"id": "b", "url": "{broken.url}"}}]'
        variables = {"TRIREME_BACKENDS": backends, "TRIREME_ROUTING_STRATEGY": "round_robin"}

        def both(**more: str) -> Any:
            return start(**variables, **more)

        async with full_gateway(both, triton) as (gateway, holder):
            responses = [await gateway.client.post(CHAT, json=STREAM, headers=BATCH) for _ in range(4)]
            for response in responses:
                assert (await response.content.readline()).startswith(b": waiting")
            holder.cancel()
            answers = [await response.read() for response in responses]
    assert broken.requests, "the broken backend was tried"
    assert all(answer.endswith(b"data: [DONE]\n\n") for answer in answers)
