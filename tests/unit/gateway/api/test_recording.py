"""A stream that is recorded: every byte, and nothing of the end before the recorder has it."""

import asyncio

import aiohttp
import pytest
from aiohttp import web

from gateway.api.sse import RecordedReply, StreamShape
from gateway.core.call import Call
from gateway.core.job import Chunk
from gateway.core.limit import TimeLimit
from gateway.errors import BackendFailed

SHAPE = StreamShape("a", "chunk", include_usage=False)


class SlowRecorder:
    """Takes its time over endings: until `goes_on` is set."""

    def __init__(self) -> None:
        self.data = b""
        self.asked = asyncio.Event()
        self.goes_on = asyncio.Event()

    def add(self, data: bytes) -> None:
        self.data += data

    async def complete(self, last: bytes) -> None:
        self.data += last
        await self.give_up()

    async def give_up(self) -> None:
        self.asked.set()
        await self.goes_on.wait()


async def read(response: aiohttp.ClientResponse, recorder: SlowRecorder) -> tuple[bytes, bytes]:
    """What can be read before the recorder goes on, and what after."""
    early = await response.content.readuntil(b"\n\n")
    await recorder.asked.wait()
    rest = asyncio.create_task(response.content.read())
    done, _ = await asyncio.wait([rest], timeout=0.05)
    assert not done
    recorder.goes_on.set()
    return early, await rest


@pytest.mark.parametrize("fails", [False, True])
async def test_the_end_goes_out_after_the_recorder_has_it(fails: bool) -> None:
    recorder = SlowRecorder()

    async def stream(request: web.Request) -> web.StreamResponse:
        call = Call(id="r", uid="u", route="/", limit=TimeLimit(60))
        reply = RecordedReply(request, call, SHAPE, 5.0, recorder)
        await reply.send(Chunk(b'{"index":0}', 1))
        await (reply.fail(BackendFailed("broken")) if fails else reply.finish())
        return reply.response

    app = web.Application()
    app.router.add_get("/", stream)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = "http://{}:{}".format(*runner.addresses[0][:2])
        async with asyncio.timeout(5), aiohttp.ClientSession() as client, client.get(url) as response:
            early, late = await read(response, recorder)
    finally:
        await runner.cleanup()
    assert b'"index":0' in early
    assert (b"broken" if fails else b"[DONE]") in late
    assert recorder.data == (early if fails else early + late)
