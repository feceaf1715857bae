"""Asking `plan`: once for each request, within its time, and not at all where it would only hold the request up."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import web

from gateway.core.call import Call
from gateway.core.job import Backend
from gateway.core.limit import TimeLimit
from gateway.errors import BackendFailed, BackendTimeout, GatewayError, PlanSkipped
from gateway.telemetry.metrics import Metrics
from gateway.triton.client import TritonClient
from gateway.triton.codec import JSON_LENGTH, plan_answer
from gateway.triton.plan import Plans
from gateway.triton.settings import TritonSettings
from tests.unit.gateway.waiting import until

VECTOR = np.array([0.6, 0.8], dtype="<f4")


def answer(score: float = 0.7, vector: Any = VECTOR, **outputs: Any) -> tuple[bytes, dict[str, str]]:
    decision = json.dumps({"scorer": "s", "score": score, "parts": {"meaning": 0.5}})
    described = [
        {"name": "decision", "shape": [1], "datatype": "BYTES", "data": [decision]},
        {"name": "prompt_tokens", "shape": [1], "datatype": "INT32", "data": [9]},
        {"name": "embedding", "shape": [1, len(vector)], "parameters": {"binary_data_size": vector.nbytes}},
    ]
    header = json.dumps({"outputs": [one | outputs.get(str(one["name"]), {}) for one in described]}).encode()
    return header + vector.tobytes(), {JSON_LENGTH: str(len(header))}


@dataclass
class Planner:
    """A server of `plan`. `delays`: seconds before each answer; `broken`: it fails."""

    asked: list[str] = field(default_factory=list)
    broken: bool = False
    hangs: bool = False

    async def respond(self, request: web.Request) -> web.Response:
        body = json.loads((await request.json())["inputs"][0]["data"][0])
        self.asked.append(body["messages"][0]["content"])
        if self.hangs:
            await asyncio.Event().wait()
        if self.broken:
            return web.json_response({"error": "no"}, status=500)
        data, headers = answer()
        return web.Response(body=data, headers=headers)


@dataclass
class World:
    planner: Planner
    plans: Plans
    metrics: Metrics
    saturation: float = 0.0
    now: float = 100.0

    def count(self, outcome: str) -> float | None:
        return self.metrics.registry.get_sample_value("trireme_plans_total", {"outcome": outcome})


@pytest.fixture
async def world() -> AsyncIterator[World]:
    planner, metrics = Planner(), Metrics()
    app = web.Application()
    app.router.add_post("/v2/models/plan/infer", planner.respond)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.05)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    backend = Backend("b", f"http://{host}:{port}", "plan")
    settings = TritonSettings(plan_timeout_s=5.0, plans_at_once=2, plan_failures=2, plan_pause_s=10.0)
    async with aiohttp.ClientSession() as session:
        found = World(planner, None, metrics)  # type: ignore[arg-type]
        found.plans = Plans(
            TritonClient(session, settings),
            lambda name: (backend, found.saturation) if name == "plan" else None,
            settings,
            outcomes=metrics.plans,
            seconds=metrics.plan_seconds,
            clock=lambda: found.now,
        )
        yield found
    await runner.cleanup()


def call() -> Call:
    return Call(id="r", uid="u", route="/", limit=TimeLimit(30))


async def test_a_text_is_judged_and_embedded_in_one_question(world: World) -> None:
    planned = await world.plans.plan(call(), "Why?")
    assert (planned.score, planned.tokens, planned.parts) == (0.7, 9, {"meaning": 0.5})
    assert planned.embedding.tolist() == pytest.approx([0.6, 0.8])
    assert (world.planner.asked, world.count("ok")) == (["Why?"], 1)


async def test_a_request_asks_once_however_many_want_to_know(world: World) -> None:
    one = call()
    assert await world.plans.plan(one, "Why?") is await world.plans.plan(one, "Why?")
    assert len(world.planner.asked) == 1


async def test_a_request_that_asked_in_vain_does_not_ask_again(world: World) -> None:
    world.planner.broken, one = True, call()
    with pytest.raises(BackendFailed):
        await world.plans.plan(one, "Why?")
    with pytest.raises(PlanSkipped):
        await world.plans.plan(one, "Why?")
    assert len(world.planner.asked) == 1


async def test_nobody_waits_longer_than_was_allowed(world: World) -> None:
    world.planner.hangs = True
    with pytest.raises(BackendTimeout):
        await world.plans.plan(call(), "Why?", timeout_s=0.02)
    assert world.count("backend_timeout") == 1


async def test_a_full_backend_is_spared(world: World) -> None:
    world.saturation = 0.95
    with pytest.raises(PlanSkipped, match="full"):
        await world.plans.plan(call(), "Why?")
    assert (world.planner.asked, world.count("skipped")) == ([], 1)


async def test_what_has_no_text_is_not_asked_about(world: World) -> None:
    with pytest.raises(PlanSkipped, match="no text"):
        await world.plans.plan(call(), "")


async def test_only_so_many_questions_are_open(world: World) -> None:
    world.planner.hangs = True
    waiting = [asyncio.ensure_future(world.plans.plan(call(), "Why?", timeout_s=5)) for _ in range(2)]
    await until(lambda: len(world.planner.asked) == 2)
    with pytest.raises(PlanSkipped, match="too many"):
        await world.plans.plan(call(), "Why?")
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    world.planner.hangs = False
    assert (await world.plans.plan(call(), "Why?")).score == 0.7


async def test_after_failures_nobody_asks_for_a_while_and_then_one_does(world: World) -> None:
    world.planner.broken = True
    for _ in range(2):
        with pytest.raises(BackendFailed):
            await world.plans.plan(call(), "Why?")
    with pytest.raises(PlanSkipped, match="failed lately"):
        await world.plans.plan(call(), "Why?")
    world.planner.broken = False
    world.now += 10.5
    assert (await world.plans.plan(call(), "Why?")).score == 0.7
    assert (await world.plans.plan(call(), "Why?")).score == 0.7


@pytest.mark.parametrize(
    ("data", "headers"),
    [
        (b"{}", {JSON_LENGTH: "2"}),
        (b"x", {}),
        answer(score=1.5),
        answer(vector=np.array([np.nan], dtype="<f4")),
        answer(vector=np.array([], dtype="<f4")),
        answer(decision={"data": ["{"]}),
        answer(prompt_tokens={"data": []}),
    ],
)
def test_an_answer_that_makes_no_sense_is_a_failure(data: bytes, headers: dict[str, str]) -> None:
    with pytest.raises(GatewayError) as raised:
        plan_answer(data, headers)
    assert raised.value.code == "backend_failed"
