"""A whole stack with the control plane: versions change while clients ask, and nobody notices when it dies."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import httpx
import pytest
from redis.asyncio import Redis

from control_plane.rollouts.commands import Commands
from control_plane.rollouts.state import Rollout, Rules
from control_plane.rollouts.store import Store
from control_plane.routing import RoutingDocument
from gateway.core.snapshot import Arm
from tests.support.gateway import GatewayClient, plain_http, wait_until
from trireme.stack import EmbeddedStack, isolated_settings

pytestmark = pytest.mark.integration
Result = TypeVar("Result")
# The same Triton model, once by its version: an arm of its own that is no worse.
SAME = Arm(name="v1", version="1")
HALF = Rules(steps=(50, 100), min_samples=50, min_step_s=0.0, first_look=50, error_margin=0.1, latency_margin=3.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    settings = isolated_settings(tmp_path_factory.mktemp("rollouts"), engine="scripted", triton_models=("chat",))
    with EmbeddedStack(settings) as running:
        yield running


def command(stack: EmbeddedStack, give: Callable[[Commands], Awaitable[Result]]) -> Result:
    async def run() -> Result:
        async with Redis.from_url(stack.valkey_url) as redis:
            return await give(Commands(Store(redis), RoutingDocument(redis), "test"))

    return asyncio.run(run())


def record(stack: EmbeddedStack, identifier: str) -> Rollout:
    async def run() -> Rollout:
        async with Redis.from_url(stack.valkey_url) as redis:
            return await Store(redis).get(identifier)

    return asyncio.run(run())


def weights(stack: EmbeddedStack) -> dict[str, int]:
    async def run() -> dict[str, int]:
        async with Redis.from_url(stack.valkey_url) as redis:
            document = await RoutingDocument(redis).read()
            return {arm.name: arm.weight for route in document.models for arm in route.arms}

    return asyncio.run(run())


def start(stack: EmbeddedStack, canary: Arm, rules: Rules) -> Rollout:
    model = stack.settings.model.name
    return command(stack, lambda commands: commands.start(model, canary, rules, time.time()))


def test_a_version_that_is_no_worse_is_promoted_by_its_own_requests(whole: EmbeddedStack) -> None:
    client = GatewayClient(whole)
    one = start(whole, SAME, HALF)
    wait_until(lambda: weights(whole) == {"v1": 50, "stable": 50}, "the canary gets its half", 10.0)
    until, sessions = time.monotonic() + 90.0, 0
    while record(whole, one.id).status == "running" and time.monotonic() < until:
        for _ in range(20):
            sessions += 1
            assert client.chat(max_tokens=4, user=f"session {sessions}").status_code == httpx.codes.OK
    ended = record(whole, one.id)
    assert (ended.status, ended.history[-1].by) == ("promoted", "control plane")
    errors, *latencies = ended.history[-1].comparisons
    assert (errors.canary, errors.stable) == (0.0, 0.0)
    assert 50 <= errors.canary_samples < sessions
    assert [measure.metric for measure in latencies] == ["time_to_first_token", "time_per_output_token"]
    wait_until(lambda: weights(whole) == {"v1": 1}, "only the winner is left", 10.0)


def test_a_version_that_fails_goes_back_by_itself(whole: EmbeddedStack) -> None:
    client = GatewayClient(whole)
    one = start(whole, Arm(name="missing", version="99"), HALF)
    wait_until(lambda: weights(whole).get("missing") == 50, "the canary gets its half", 10.0)
    until, sessions = time.monotonic() + 90.0, 0
    while record(whole, one.id).status == "running" and time.monotonic() < until:
        for _ in range(20):
            sessions += 1
            client.chat(max_tokens=2, user=f"session {sessions}")
    ended = record(whole, one.id)
    assert ended.status == "rolled_back"
    assert ended.history[-1].comparisons[0].canary == 1.0
    assert ended.history[-1].comparisons[0].stable == 0.0
    wait_until(lambda: "missing" not in weights(whole), "everybody is back", 10.0)
    assert client.chat(max_tokens=2).status_code == httpx.codes.OK


def test_without_the_control_plane_everything_goes_on_and_an_abort_works(whole: EmbeddedStack) -> None:
    client = GatewayClient(whole)
    one = start(whole, Arm(name="again"), HALF)
    wait_until(lambda: weights(whole).get("again") == 50, "the canary gets its half", 10.0)
    before = whole.child("control_plane").pid
    whole.kill("control_plane")
    assert {client.chat(max_tokens=2, user=f"session {number}").status_code for number in range(10)} == {200}
    assert weights(whole)["again"] == 50
    command(whole, lambda commands: commands.abort(one.id, time.time()))
    assert "again" not in weights(whole)
    wait_until(lambda: whole.child("control_plane").pid not in (before, None), "it is started again")
    address = f"http://127.0.0.1:{whole.settings.ports.control}"
    wait_until(lambda: one.id in shown(address), "it shows the rollout")
    assert record(whole, one.id).status == "aborted"


def shown(address: str) -> str:
    try:
        return plain_http().get(address, timeout=5.0).text
    except httpx.TransportError:
        return ""
