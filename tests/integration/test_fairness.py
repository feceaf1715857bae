"""Tenants who all want more than their share, before a real gateway, a real tritonserver and the scripted engine."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from benchmarks.simulation import Arrival, merge, poisson
from gateway.admission.line import Line
from gateway.api.keys import GATE, METRICS
from gateway.config import load
from tests.support.feeding import OUTPUT_WEIGHT, PROMPT_WEIGHT, Ask, Feed, Service, largest_gap
from tests.unit.gateway.conftest import Gateway, running_gateway
from trireme.keys import key_store, tenant_store
from trireme.parts import gateway_environment
from trireme.stack import EmbeddedStack

pytestmark = pytest.mark.integration
# Seconds by the engine's work (tests/support/feeding.py); as long as first come, first served takes to leave the bound.
FAIRNESS_S = float(os.environ.get("FAIRNESS_S", "24"))
PLACES, RUNNING_TOKENS = 2, 300
SPEED = 250.0
SINCE = 8.0
UNTIL = SINCE + FAIRNESS_S
EVERYBODY = "everybody"
FLOOD = 40
usual = partial(poisson, prompt=30, answer=24)


def two() -> list[Arrival]:
    """One sends 1.5 requests a second and the other 3, where less than 3 can be served."""
    return merge(usual("a", 1.5, UNTIL, seed=1), usual("b", 3, UNTIL, seed=2))


def short_and_long() -> list[Arrival]:
    return merge(
        poisson("short", 5, UNTIL, seed=1, prompt=2, answer=4), poisson("long", 4, UNTIL, seed=2, prompt=80, answer=40)
    )


def eight() -> list[Arrival]:
    rates = (0.6, 0.6, 0.6, 0.6, 1, 1, 2, 4)
    return merge(*(usual(f"t{number}", rate, UNTIL, seed=number) for number, rate in enumerate(rates)))


def on_and_off() -> list[Arrival]:
    """One is always there; the other comes now and then, with many at once."""
    bursts = (usual("b", 8, at + 2, seed=at, since=at) for at in range(6, int(UNTIL), 18))
    return merge(usual("a", 3, UNTIL, seed=1), *bursts)


async def secrets(stack: EmbeddedStack, tenants: Sequence[str]) -> dict[str, str]:
    async with tenant_store(stack.settings) as store:
        for tenant in tenants:
            await store.ensure(tenant)
    async with key_store(stack.settings) as keys:
        made = [await keys.create(tenant=one, name="key", scopes=frozenset({"inference"})) for one in tenants]
    return {tenant: secret for tenant, (_, secret) in zip(tenants, made, strict=True)}


@asynccontextmanager
async def opened(stack: EmbeddedStack, secret: str) -> AsyncIterator[Gateway]:
    """A gateway of this test's own, with few places, before the Triton and the Valkey of all tests."""
    few = {
        "TRIREME_PORT": "0",
        "TRIREME_CACHE": "off",
        "TRIREME_MAX_MODEL_LEN": str(RUNNING_TOKENS),
        "TRIREME_MAX_RUNNING": str(PLACES),
        "TRIREME_MAX_RUNNING_TOKENS": str(RUNNING_TOKENS),
        "TRIREME_MAX_QUEUED": "1000000",
        "TRIREME_MAX_QUEUED_TOKENS": "1000000000",
    }
    async with running_gateway(load({**gateway_environment(stack.settings), **few}), secret) as gateway:
        yield gateway


def asking(gateway: Gateway, model: str, secret_of: Callable[[str], str]) -> Ask:
    async def ask(arrival: Arrival) -> dict[str, Any]:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": "hi " * arrival.prompt}],
            "max_tokens": arrival.answer,
            "ignore_eos": True,
        }
        headers = {"authorization": f"Bearer {secret_of(arrival.tenant)}"}
        async with gateway.client.post("/v1/chat/completions", json=body, headers=headers) as response:
            answer = await response.json()
            assert response.status == 200, answer
            return dict(answer["usage"])

    return ask


async def served(stack: EmbeddedStack, arrivals: Sequence[Arrival]) -> tuple[list[Service], list[Service]]:
    """With a key of each tenant's own; and with one key for all, which is first come, first served."""
    tenants = sorted({one.tenant for one in arrivals})
    keys = await secrets(stack, [*tenants, EVERYBODY])
    async with opened(stack, keys[EVERYBODY]) as gateway:
        feeds = [
            Feed(asking(gateway, stack.settings.model.name, secret_of), SPEED, PLACES)
            for secret_of in (keys.__getitem__, lambda _: keys[EVERYBODY])
        ]
        ours, fifo = [await feed.play(arrivals, SINCE, UNTIL) for feed in feeds]
    return ours, fifo


def bound(services: Sequence[Service]) -> int:
    return 2 * max(PROMPT_WEIGHT * max(one.prompt for one in services), OUTPUT_WEIGHT * RUNNING_TOKENS)


@pytest.mark.parametrize(
    "arrivals", [two(), short_and_long(), eight()], ids=["1.5 and 3 a second", "short and long", "eight tenants"]
)
async def test_backlogged_tenants_are_served_alike_within_the_bound_where_first_come_first_served_drifts_apart(
    stack: EmbeddedStack, arrivals: list[Arrival]
) -> None:
    ours, fifo = await served(stack, arrivals)
    tenants = sorted({one.tenant for one in arrivals})
    assert all(one.backlogged == set(tenants) for one in ours), "all of them always want more"
    half, whole = (largest_gap(some, tenants) for some in (fifo[: len(fifo) // 2], fifo))
    assert largest_gap(ours, tenants) <= bound(ours)
    assert whole > bound(fifo)
    assert whole > 1.3 * half


async def test_a_tenant_that_comes_and_goes_gets_its_half_while_it_is_there_and_no_more(stack: EmbeddedStack) -> None:
    ours, fifo = await served(stack, on_and_off())
    there = ["b" in one.backlogged for one in ours]
    assert there.index(False) < len(there) - there[::-1].index(True), "it goes, and comes again"
    assert largest_gap(ours, "ab") <= bound(ours)
    assert largest_gap(fifo, "ab") > bound(fifo)


async def test_a_request_beside_a_flood_waits_for_the_next_place_and_not_for_the_flood(stack: EmbeddedStack) -> None:
    """Counted in requests of the flood that start while it waits: how quick the machine is does not matter."""
    keys = await secrets(stack, ["flood", "calm"])
    flood, calm = (Arrival(0, tenant, prompt=20, answer=24, expected=24) for tenant in ("flood", "calm"))
    async with opened(stack, keys["calm"]) as gateway, asyncio.timeout(60):
        ask = asking(gateway, stack.settings.model.name, keys.__getitem__)
        flooding = [asyncio.create_task(again_and_again(ask, flood)) for _ in range(FLOOD)]
        passed = [await passed_while_waiting(gateway, ask, calm) for _ in range(5)]
        for one in flooding:
            one.cancel()
        await asyncio.gather(*flooding, return_exceptions=True)
    assert max(passed) <= 2


async def again_and_again(ask: Ask, arrival: Arrival) -> None:
    while True:
        await ask(arrival)


async def passed_while_waiting(gateway: Gateway, ask: Ask, arrival: Arrival) -> int:
    """How many others start between its arrival and its turn, while half of the flood or more waits before it."""
    line = gateway.app[GATE].scheduler.lines["standard"]
    await until(lambda: len(line) > FLOOD // 2)
    asked = asyncio.ensure_future(ask(arrival))
    await until(lambda: asked.done() or present(line, arrival.tenant))
    before, waits = turns(gateway), line.load(arrival.tenant)[0]
    await until(lambda: line.load(arrival.tenant)[0] == 0)
    passed = turns(gateway) - before - 1 if waits else 0  # its turn came before anybody could look
    await asked
    return passed


def present(line: Line, tenant: str) -> bool:
    account = line.counters.find(tenant)
    return account is not None and account.waiting + account.running > 0


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - the code under test should not carry events for its tests
        await asyncio.sleep(0)


def turns(gateway: Gateway) -> int:
    """Begun since the start."""
    name, labels = "trireme_admission_wait_seconds_count", {"class": "standard"}
    return int(gateway.app[METRICS].registry.get_sample_value(name, labels) or 0)
