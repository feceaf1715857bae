"""Work that nobody waits for is stopped in the engine."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from gateway.api.keys import GATE
from tests.fakes.triton import FakeTriton, Script
from tests.unit.gateway.conftest import Gateway, StartGateway
from tests.unit.gateway.waiting import until

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}


async def leave(gateway: Gateway, triton: FakeTriton, body: dict[str, Any], path: str = CHAT) -> list[str]:
    """Send `body`, leave when the engine hangs, and return the ids that were aborted within a second."""

    async def ask() -> None:
        async with gateway.client.post(path, json=body) as response:
            await response.read()

    asking = asyncio.create_task(ask())
    async with asyncio.timeout(5):
        await triton.hanging.wait()
    asking.cancel()
    with suppress(asyncio.CancelledError):
        await asking
    async with asyncio.timeout(1):
        return await triton.aborts.get()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("tokens_seen", [0, 1])
async def test_a_client_that_leaves_stops_the_engine(
    gateway: Gateway, triton: FakeTriton, stream: bool, tokens_seen: int
) -> None:
    triton.script = Script(hang_at=tokens_seen)
    aborted = await leave(gateway, triton, BODY | {"stream": stream})
    assert aborted == [triton.requests[0]["id"]]
    async with asyncio.timeout(1):
        await gateway.app[GATE].drained()


async def test_every_running_prompt_of_a_completion_is_stopped(start: StartGateway, triton: FakeTriton) -> None:
    triton.script = Script(hang_at=1)
    body = {"model": "tiny", "prompt": ["a", "b", "c", "d"]}
    async with start(TRIREME_PROMPTS_AT_ONCE="2") as gateway:
        aborted = await leave(gateway, triton, body, "/v1/completions")
    assert 1 <= len(aborted) <= 2
    assert set(aborted) >= {one["id"] for one in triton.requests}


async def test_a_client_that_leaves_the_queue_never_reaches_the_engine(start: StartGateway, triton: FakeTriton) -> None:
    triton.script = Script(hang_at=0)
    async with start(TRIREME_MAX_RUNNING="1") as gateway:
        first = asyncio.create_task(gateway.client.post(CHAT, json=BODY))
        await triton.hanging.wait()
        second = asyncio.create_task(gateway.client.post(CHAT, json=BODY))
        gate = gateway.app[GATE]
        await until(lambda: gate.queued == 1)
        second.cancel()
        await until(lambda: gate.queued == 0)
        assert len(triton.requests) == 1
        first.cancel()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_deadline_that_passes_stops_the_engine_and_is_504(
    gateway: Gateway, triton: FakeTriton, stream: bool
) -> None:
    triton.script = Script(hang_at=0)
    status, answer = await gateway.ask(CHAT, BODY | {"stream": stream}, x_deadline_ms="100")
    assert (status, answer["error"]["code"]) == (504, "deadline_exceeded")
    async with asyncio.timeout(1):
        assert await triton.aborts.get() == [triton.requests[0]["id"]]


async def test_a_deadline_that_passes_mid_stream_is_an_error_event(gateway: Gateway, triton: FakeTriton) -> None:
    triton.script = Script(hang_at=1)
    async with gateway.client.post(CHAT, json=BODY | {"stream": True}, headers={"x-deadline-ms": "150"}) as response:
        text = await response.text()
    assert '"code":"deadline_exceeded"' in text
    assert "[DONE]" not in text
    assert await triton.aborts.get()


async def test_the_deadline_goes_along_to_the_engine(gateway: Gateway, triton: FakeTriton) -> None:
    await gateway.ask(CHAT, BODY, x_deadline_ms="5000")
    assert 4000 < triton.requests[0]["deadline_ms"] <= 5500


@pytest.mark.parametrize("value", ["0", "-1", "soon", "3600001", "٣"])
async def test_a_deadline_that_makes_no_sense_is_refused(gateway: Gateway, value: str) -> None:
    status, answer = await gateway.ask(CHAT, BODY, x_deadline_ms=value)
    assert (status, answer["error"]["param"]) == (400, "x-deadline-ms")


async def test_an_abort_that_fails_is_tried_again(gateway: Gateway, triton: FakeTriton) -> None:
    triton.script = Script(hang_at=0)
    triton.failing_aborts = 1
    assert await leave(gateway, triton, BODY) == [triton.requests[0]["id"]]


async def test_a_finished_request_is_not_aborted(gateway: Gateway, triton: FakeTriton) -> None:
    await gateway.ask(CHAT, BODY)
    assert triton.aborts.empty()


@pytest.mark.parametrize("finish", ["abort", "error"])
async def test_an_answer_that_the_engine_gave_up_is_an_error(gateway: Gateway, triton: FakeTriton, finish: str) -> None:
    triton.script = Script(finish=finish)
    status, answer = await gateway.ask(CHAT, BODY)
    assert (status, answer["error"]["code"]) == (502, f"engine_{finish}")


async def test_a_client_that_stops_reading_is_let_go(start: StartGateway, triton: FakeTriton) -> None:
    """Its buffers are full long before the answer ends, and stay so."""
    triton.script = Script(words=["x" * 65536] * 400)
    body = BODY | {"stream": True}
    async with start(TRIREME_WRITE_TIMEOUT_S="0.2") as gateway, gateway.client.post(CHAT, json=body) as response:
        assert response.status == 200
        async with asyncio.timeout(5):
            assert await triton.aborts.get()
            await gateway.app[GATE].drained()
