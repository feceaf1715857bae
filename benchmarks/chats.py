"""Small whole chats, one after the other or in several streams, and what they cost the servers on the way."""

import asyncio
import itertools
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import psutil
from redis.asyncio import Redis

# What a server does after its answer belongs to the block that asked for it.
AFTERMATH_S: Final = 0.1
MAX_TOKENS: Final = 8
# What the gateway says of itself in `Server-Timing`.
STAGES: Final = ("auth", "limits")
_STAGE = re.compile(r"(\w+);dur=([0-9.]+)")
_numbers = itertools.count()


@dataclass(frozen=True, eq=False)
class Way:
    """One way to an answer. `body`: of the request with this prompt. `process`: who stands in between, if anybody."""

    name: str
    url: str
    body: Callable[[str], Mapping[str, Any]]
    key: str = "none"
    process: psutil.Process | None = None


def openai_chat(name: str, url: str, model: str, key: str = "none", process: psutil.Process | None = None) -> Way:
    return Way(name, f"{url}/v1/chat/completions", lambda prompt: {"model": model, **_chat(prompt)}, key, process)


def direct_to_ensemble(name: str, url: str) -> Way:
    """As Triton's clients ask."""
    return Way(name, f"{url}/v2/models/chat/generate_stream", lambda prompt: {"request": json.dumps(_chat(prompt))})


def _chat(prompt: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}], "max_tokens": MAX_TOKENS}


@dataclass(frozen=True)
class Costs:
    """Seconds of CPU of the proxy and of Valkey, and how often Valkey read from a connection."""

    cpu: float = 0.0
    valkey_cpu: float = 0.0
    round_trips: float = 0.0

    def since(self, before: "Costs", background: float = 0.0) -> "Costs":
        """`background`: round trips that would have been made anyway."""
        # Asking Valkey for its counters is a round trip, too.
        trips = self.round_trips - before.round_trips - 1 - background
        return Costs(self.cpu - before.cpu, self.valkey_cpu - before.valkey_cpu, trips)


@dataclass(frozen=True)
class Block:
    """Requests of one way: seconds of all and of each; `stages`: ms of `STAGES` of each, 0 where nobody tells them."""

    seconds: float
    latencies: Sequence[float]
    stages: Sequence[tuple[float, ...]]
    costs: Costs


class Client:
    """Asks on connections that are kept open, and looks at Valkey's counters."""

    def __init__(self, session: aiohttp.ClientSession, valkey: Redis) -> None:
        self._session = session
        self._valkey = valkey
        self._background = 0.0

    async def listen(self, seconds: float) -> None:
        """Learn how many round trips a second are made while nobody asks for anything: heartbeats, refreshes."""
        nobody = Way("nobody", "", _chat)
        before = await self._costs(nobody)
        await asyncio.sleep(seconds)
        self._background = (await self._costs(nobody)).since(before).round_trips / seconds

    async def block(self, way: Way, streams: int, requests: int) -> Block:
        """`requests` in all. Raises RuntimeError when one is not answered with 200."""
        latencies: list[float] = []
        stages: list[tuple[float, ...]] = []

        async def stream() -> None:
            for _ in range(requests // streams):
                began = time.perf_counter()
                status, headers, text = await self.ask(way)
                latencies.append(time.perf_counter() - began)
                if status != 200:
                    raise RuntimeError(f"{way.name} answered {status}: {text[:500]!r}")
                stated = dict(_STAGE.findall(headers.get("server-timing", "")))
                stages.append(tuple(float(stated.get(stage, 0.0)) for stage in STAGES))

        before = await self._costs(way)
        began = time.perf_counter()
        await asyncio.gather(*(stream() for _ in range(streams)))
        seconds = time.perf_counter() - began
        await asyncio.sleep(AFTERMATH_S)
        background = self._background * (seconds + AFTERMATH_S)
        return Block(seconds, latencies, stages, (await self._costs(way)).since(before, background))

    async def ask(self, way: Way) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of one chat. No two prompts are the same: nobody's cache helps."""
        body = way.body(f"Tell the story of voyage {next(_numbers)}, from the harbour to the open sea and back.")
        headers = {"Authorization": f"Bearer {way.key}"}
        async with self._session.post(way.url, json=body, headers=headers) as response:
            return response.status, response.headers, await response.read()

    async def _costs(self, way: Way) -> Costs:
        counters = await self._valkey.info("all")
        valkey_cpu = counters["used_cpu_user"] + counters["used_cpu_sys"]
        return Costs(cpu_seconds(way.process), valkey_cpu, counters["total_reads_processed"])


def cpu_seconds(process: psutil.Process | None) -> float:
    """Of a process and of those that it started."""
    if process is None:
        return 0.0
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(one.user + one.system for one in times)
