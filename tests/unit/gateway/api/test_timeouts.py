"""A backend that says nothing."""

from typing import Any

from tests.fakes.triton import FakeTriton, Script
from tests.unit.gateway.conftest import StartGateway

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}


async def test_no_first_token_in_time_is_504_and_an_abort(start: StartGateway, triton: FakeTriton) -> None:
    triton.script = Script(hang_at=0)
    async with start(TRIREME_TRITON_FIRST_BYTE_TIMEOUT_S="0.1") as gateway:
        status, answer = await gateway.ask(CHAT, BODY)
        assert (status, answer["error"]["code"]) == (504, "backend_timeout")
        assert await triton.aborts.get() == [triton.requests[0]["id"]]


async def test_silence_in_mid_stream_is_an_error_event_and_an_abort(start: StartGateway, triton: FakeTriton) -> None:
    triton.script = Script(hang_at=1)
    async with start(TRIREME_TRITON_IDLE_TIMEOUT_S="0.1") as gateway:
        async with gateway.client.post(CHAT, json=BODY | {"stream": True}) as response:
            text = await response.text()
        assert '"code":"backend_timeout"' in text
        assert "[DONE]" not in text
        assert await triton.aborts.get() == [triton.requests[0]["id"]]


async def test_a_backend_that_takes_no_connections_is_lost(start: StartGateway, triton: FakeTriton) -> None:
    async with start() as gateway:
        await triton.stop()
        status, answer = await gateway.ask(CHAT, BODY)
        assert (status, answer["error"]["code"]) == (502, "backend_lost")
