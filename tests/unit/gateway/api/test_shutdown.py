"""SIGTERM: no new work, the running work is finished or ended, and every client is told."""

import asyncio
from typing import Any

from gateway.server import drain
from tests.fakes.triton import FakeTriton, Script
from tests.unit.gateway.conftest import Gateway
from tests.unit.gateway.waiting import until

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}


async def test_new_requests_are_refused_and_readiness_is_false_at_once(gateway: Gateway) -> None:
    await drain(gateway.app, 1)
    async with gateway.client.post(CHAT, json=BODY) as response:
        assert response.status == 503
        assert (await response.json())["error"]["code"] == "shutting_down"
        assert response.headers["retry-after"] == "1"
        assert response.headers["connection"] == "close"
    async with gateway.client.get("/health/ready") as response:
        assert response.status == 503
        assert (await response.json())["checks"]["gateway"] == "shutting down"
    async with gateway.client.get("/health/live") as response:
        assert response.status == 200


async def test_running_requests_may_finish(gateway: Gateway, triton: FakeTriton) -> None:
    triton.script = Script(words=["x"] * 500)
    asking = asyncio.create_task(gateway.ask(CHAT, BODY))
    await until(lambda: triton.requests)
    await drain(gateway.app, 5)
    status, answer = await asking
    assert status == 200
    assert answer["choices"][0]["message"]["content"] == "x" * 500


async def test_requests_that_do_not_finish_are_ended_with_an_error_and_an_abort(
    gateway: Gateway, triton: FakeTriton
) -> None:
    triton.script = Script(hang_at=1)
    whole = asyncio.create_task(gateway.ask(CHAT, BODY))
    async with gateway.client.post(CHAT, json=BODY | {"stream": True}) as streaming:
        await until(lambda: len(triton.requests) == 2)
        async with asyncio.timeout(2):
            await drain(gateway.app, 0.05)
            status, answer = await whole
            text = await streaming.text()
    assert (status, answer["error"]["code"]) == (503, "shutting_down")
    assert '"code":"shutting_down"' in text
    assert "[DONE]" not in text
    aborted = [*await triton.aborts.get(), *await triton.aborts.get()]
    assert sorted(aborted) == sorted(one["id"] for one in triton.requests)
