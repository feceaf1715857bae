"""Ten thousand requests at once, each on a connection of its own."""

import asyncio
import gc
import resource
import sys
import time
import types
from collections.abc import Callable, Coroutine, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from gateway.__main__ import spare_the_collector
from gateway.admission.line import Ticket
from gateway.api.keys import GATE
from gateway.config import load
from gateway.core.call import Call
from tests.fakes.triton import FakeTriton, Script
from tests.unit.gateway.conftest import Gateway, running_gateway

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
CROWD = 10_000
MAX_RUNNING, MAX_QUEUED = 32, 1000
# The engine stays silent until all are there. It shares this process with the gateway, and must not be taken for lost
# while both of them read what ten thousand clients send.
VARIABLES = {
    "TRIREME_MAX_RUNNING": str(MAX_RUNNING),
    "TRIREME_MAX_QUEUED": str(MAX_QUEUED),
    "TRIREME_STANDARD_QUEUE_TIMEOUT_S": "600",
    "TRIREME_BACKEND_HUNG_S": "600",
    "TRIREME_PROBE_INTERVAL_S": "600",
    "TRIREME_PROBE_TIMEOUT_S": "60",
    "TRIREME_PROBE_GENERATION_INTERVAL_S": "600",
    "TRIREME_TRITON_CONNECT_TIMEOUT_S": "60",
}
# Of memory, for each request at once: its connection, and what is known of it.
MOST_BYTES = 32 * 1024
REFUSAL_S = 0.05
REFUSED = (429, 503)
FILES_FOR_OTHERS = 1000


@pytest.fixture
def crowd() -> Iterator[int]:
    """As many as this machine lets one process have connections, at most `CROWD`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield min(CROWD, hard - FILES_FOR_OTHERS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def meter() -> Iterator["Meter"]:
    """With the garbage collector as the gateway's process sets it."""
    one, threshold = Meter(), gc.get_threshold()
    spare_the_collector()
    gc.callbacks.append(one.collecting)
    yield one
    gc.callbacks.remove(one.collecting)
    gc.set_threshold(*threshold)
    gc.unfreeze()


@dataclass
class Meter:
    """Processor time of each request that was refused, in seconds: of its own steps, not of what comes in between.

    `collector_s`: of the garbage collector, which is counted apart, since it does not belong to whom it interrupts.
    """

    refusals: list[float] = field(default_factory=list)
    collector_s: float = 0.0
    _collecting_since: float = 0.0

    def collecting(self, phase: str, _: dict[str, int]) -> None:
        """For `gc.callbacks`."""
        if phase == "start":
            self._collecting_since = time.thread_time()
        else:
            self.collector_s += time.thread_time() - self._collecting_since

    def middleware(self) -> Any:
        @web.middleware
        async def measure(request: web.Request, handler: Any) -> web.StreamResponse:
            seconds = [0.0]
            response: web.StreamResponse = await self._timed(handler(request), seconds)
            if response.status in REFUSED:
                self.refusals.append(seconds[0])
            return response

        return measure

    @types.coroutine
    def _timed(self, work: Coroutine[Any, Any, Any], seconds: list[float]) -> Generator[Any, Any, Any]:
        thrown: BaseException | None = None
        while True:
            began = self._now()
            try:
                awaited = work.send(None) if thrown is None else work.throw(thrown)
            except StopIteration as ended:
                return ended.value
            finally:
                seconds[0] += self._now() - began
            try:
                thrown = yield awaited
            except BaseException as error:  # noqa: BLE001 - handed on
                thrown = error

    def _now(self) -> float:
        return time.thread_time() - self.collector_s


def resident() -> int:
    """Bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def alive() -> int:
    """Requests that something still knows."""
    gc.collect()
    return sum(type(one) in (Call, Ticket) for one in gc.get_objects())


async def send(url: str, number: int, secret: str) -> asyncio.subprocess.Process:
    host, _, port = url.removeprefix("http://").partition(":")
    body = msgspec.json.encode(BODY)
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {secret}\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-m", "tests.support.crowd", host, port, str(number))
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    process.stdin.write(head.encode() + body)
    process.stdin.close()
    return process


async def leases(gateway: Gateway) -> int:
    async with gateway.client.get("/admin/v1/backends") as response:
        rows = (await response.json())["data"]
    return sum(row["in_flight_requests"] + row["in_flight_tokens"] for row in rows)


async def patiently(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(240):
        while not condition():  # noqa: ASYNC110 - the code under test should not carry events for its tests
            await asyncio.sleep(0.02)


async def test_ten_thousand_at_once_are_all_answered_within_bounds_and_leave_nothing_behind(
    environment: dict[str, str], secret: str, triton: FakeTriton, crowd: int, meter: Meter
) -> None:
    async with running_gateway(load(environment | VARIABLES), secret, middleware=meter.middleware()) as gateway:
        scheduler = gateway.app[GATE].scheduler
        await asyncio.gather(*(gateway.ask(CHAT, BODY) for _ in range(5 * MAX_RUNNING)))
        before, tasks, memory = alive(), len(asyncio.all_tasks()), resident()
        triton.script = Script(hang_at=0)
        process = await send(gateway.url, crowd, secret)
        await patiently(lambda: len(meter.refusals) + scheduler.queued + scheduler.running == crowd)
        grown = resident() - memory
        waited, ran = scheduler.queued, scheduler.running
        triton.go_on.set()
        told, _ = await process.communicate()
        answers = {int(status): number for status, number in msgspec.json.decode(told).items()}
        assert answers == {200: waited + ran, 429: len(meter.refusals)}
        assert sum(answers.values()) == crowd
        assert MAX_QUEUED / 2 < waited <= MAX_QUEUED
        assert max(meter.refusals) < REFUSAL_S
        assert grown < crowd * MOST_BYTES
        assert (scheduler.queued, scheduler.running, scheduler.running_tokens) == (0, 0, 0)
        assert await leases(gateway) == 0
        await patiently(lambda: len(asyncio.all_tasks()) <= tasks)
        await patiently(lambda: alive() <= before)
