"""`python -m gateway`, as an operating system sees it."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from tests.fakes.triton import FakeTriton, Script

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}


@asynccontextmanager
async def process(environment: dict[str, str]) -> AsyncIterator[Process]:
    path = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    started = await asyncio.create_subprocess_exec(sys.executable, "-m", "gateway", env=path | environment, stderr=PIPE)
    try:
        async with asyncio.timeout(60):
            yield started
    finally:
        if started.returncode is None:
            started.kill()
            await started.wait()


async def line_with(started: Process, words: str) -> str:
    """The message of the next line of the log that has these words."""
    assert started.stderr is not None
    while line := await started.stderr.readline():
        message: str = json.loads(line)["message"]
        if words in message:
            return message
    raise AssertionError(f"the process ended without saying {words!r}")


async def ready(client: aiohttp.ClientSession) -> None:
    while True:
        async with client.get("/health/ready") as response:
            if response.status == 200:
                return


async def test_sigterm_ends_running_streams_cleanly_and_the_process_with_0(
    environment: dict[str, str], secret: str, triton: FakeTriton
) -> None:
    triton.script = Script(hang_at=1)
    async with process(environment | {"TRIREME_DRAIN_S": "0.1"}) as started:
        url = (await line_with(started, "listening on")).removeprefix("listening on ")
        async with aiohttp.ClientSession(url, headers={"authorization": f"Bearer {secret}"}) as client:
            await ready(client)
            async with client.post(CHAT, json=BODY | {"stream": True}) as response:
                await triton.hanging.wait()
                started.send_signal(signal.SIGTERM)
                text = await response.text()
        async with asyncio.timeout(3):
            assert await started.wait() == 0
    assert '"code":"shutting_down"' in text
    assert await triton.aborts.get() == [triton.requests[0]["id"]]


async def test_an_idle_gateway_stops_at_once(environment: dict[str, str]) -> None:
    async with process(environment) as started:
        await line_with(started, "listening on")
        started.send_signal(signal.SIGINT)
        async with asyncio.timeout(3):
            assert await started.wait() == 0


async def test_wrong_settings_are_all_named_and_the_status_is_2(environment: dict[str, str]) -> None:
    wrong = environment | {"TRIREME_PORT": "seventy", "TRIREME_MAX_RUNNING": "0"}
    async with process(wrong) as started:
        await line_with(started, "TRIREME_PORT")
        await line_with(started, "TRIREME_MAX_RUNNING")
        assert await started.wait() == 2


async def test_a_busy_port_is_one_sentence_and_status_1(environment: dict[str, str], triton: FakeTriton) -> None:
    port = triton.url.rpartition(":")[2]
    async with process(environment | {"TRIREME_PORT": port}) as started:
        assert port in await line_with(started, "cannot start")
        assert await started.wait() == 1
