"""Routers before two real tritonservers, each with a model of its own; the score comes from a real ensemble `plan`."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import psutil
import pytest

from tests.support.gateway import GatewayClient, wait_until
from tests.support.ledger import entries
from tests.support.proxy import FaultyProxy
from trireme.stack import EmbeddedStack, isolated_settings

pytestmark = pytest.mark.integration
SMALL = "smollm2-135m-instruct"
LARGE = "large"
LARGE_CONTEXT = 8192
BOUND_S = 0.5
CANDIDATES: list[dict[str, Any]] = [
    {"model": SMALL, "quality": [[0, 1], [1, 0]], "cost": 1},
    {"model": LARGE, "quality": [[0, 1], [1, 1]], "cost": 20},
]
ROUTERS = [
    {"name": "auto", "candidates": CANDIDATES, "target": 0.65, "sticky_s": 0},
    {"name": "ruled", "candidates": CANDIDATES, "rules": [{"name": "proofs", "use": LARGE, "pattern": "(?i)prove"}]},
    {"name": "only", "candidates": CANDIDATES[:1]},
]


@dataclass
class World:
    """`small`, `large`: tritonservers; `proxy`: the way to the first one's `plan`; `front`: gateway and Valkey."""

    small: EmbeddedStack
    proxy: FaultyProxy
    large: EmbeddedStack
    front: EmbeddedStack
    client: GatewayClient

    def ask(self, text: str, model: str = "auto", **fields: Any) -> httpx.Response:
        response = self.client.chat(
            model=model, messages=[{"role": "user", "content": text}], **{"max_tokens": 2, **fields}
        )
        assert response.status_code == httpx.codes.OK, response.text
        return response

    def route_stub(self) -> psutil.Process:
        server = self.small.child("triton").pid
        assert server is not None
        (stub,) = [
            one for one in psutil.Process(server).children(recursive=True) if "/route/" in " ".join(one.cmdline())
        ]
        return stub


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    def triton(name: str, context: int) -> EmbeddedStack:
        arguments = {"max_model_len": context}
        settings = isolated_settings(tmp_path_factory.mktemp(name), engine="scripted", engine_args=arguments)
        return EmbeddedStack(settings, parts={"triton"})

    with (
        triton("small", 4096) as small,
        triton("large", LARGE_CONTEXT) as large,
        FaultyProxy("127.0.0.1", small.settings.ports.triton_http) as proxy,
    ):
        gateway = settings_of(small, f"http://127.0.0.1:{proxy.port}", large)
        settings = isolated_settings(tmp_path_factory.mktemp("front"), gateway=gateway)
        with EmbeddedStack(settings, parts={"valkey", "gateway"}) as front:
            client = GatewayClient(front)
            wait_until(client.ready, "the gateway is ready")
            yield World(small, proxy, large, front, client)


def settings_of(small: EmbeddedStack, plan_url: str, large: EmbeddedStack) -> dict[str, Any]:
    """Of the gateway. The large model has the larger context."""
    embedding = small.settings.embedding_model.name
    return {
        "models": {"more": [{"name": LARGE, "dir": str(small.settings.model.path), "max_model_len": LARGE_CONTEXT}]},
        "routing": {
            "backends": [
                {"id": "a", "url": small.triton_url, "models": [SMALL, embedding]},
                {"id": "p", "url": plan_url, "models": ["plan"]},
                {"id": "b", "url": large.triton_url, "models": [LARGE]},
            ]
        },
        "triton": {"plan_timeout_s": BOUND_S, "plan_pause_s": 0.5},
        "choosing": {"routers": ROUTERS},
    }


def members(response: httpx.Response) -> dict[str, str]:
    """Of `x-router`."""
    parts = response.headers["x-router"].split("; ")
    return {name: value.strip('"') for name, value in (part.split("=", 1) for part in parts[1:])}


def test_the_score_decides_and_header_answer_and_backend_agree(world: World) -> None:
    for number in range(12):
        response = world.ask(f"What is question {number} about?")
        found = members(response)
        expected = SMALL if 1 - float(found["score"]) >= 0.65 else LARGE
        assert (found["model"], response.json()["model"], found["reason"]) == (expected, expected, "target")
        assert response.headers["x-backend"] == {SMALL: "a", LARGE: "b"}[expected]
        assert "choice" in response.headers["server-timing"]


def test_the_same_question_goes_to_the_same_model(world: World) -> None:
    assert len({members(world.ask("How many oars?"))["score"] for _ in range(4)}) == 1


def test_a_rule_or_a_lack_of_room_needs_no_score(world: World) -> None:
    ruled = members(world.ask("Prove it", model="ruled"))
    assert (ruled["model"], ruled["reason"], ruled["rule"]) == (LARGE, "rule", "proofs")
    roomy = members(world.ask("oar " * 2600))
    assert (roomy["model"], roomy["reason"], "score" in roomy) == (LARGE, "only", False)


def test_a_single_candidate_is_simply_chosen(world: World) -> None:
    assert members(world.ask("Hello", model="only")) == {"model": SMALL, "reason": "only"}


def test_the_ledger_has_what_was_decided(world: World) -> None:
    response = world.ask("Is it in the ledger?")
    name = response.headers["x-request-id"]
    wait_until(lambda: any(one.request_id == name for one in entries(world.front)), "the entry is stored", 10.0)
    (entry,) = [one for one in entries(world.front) if one.request_id == name]
    assert (entry.router, entry.model, entry.router_reason) == ("auto", response.json()["model"], "target")
    assert entry.router_score == pytest.approx(float(members(response)["score"]), abs=0.001)


def test_a_hung_plan_costs_no_more_than_its_bound_and_comes_back(world: World) -> None:
    world.proxy.black_hole = True
    try:
        began = time.monotonic()
        found = members(world.ask("Does it hang?"))
        assert time.monotonic() - began < BOUND_S + 1.5
        assert (found["model"], found["reason"], found["unscored"]) == (SMALL, "default", "backend_timeout")
        wait_until(lambda: members(world.ask("Does it hang?"))["unscored"] == "plan_skipped", "nobody asks", 20.0)
    finally:
        world.proxy.heal()
        world.proxy.reset()
    wait_until(lambda: "score" in members(world.ask("Is it back?")), "plan is asked again", 20.0)


def test_a_model_whose_server_is_gone_is_not_chosen_any_more(world: World) -> None:
    world.large.kill("triton")
    wait_until(lambda: "no backend" in tried(world, "auto").get("others", ""), "the loss is found", 20.0)
    assert tried(world, "auto")["model"] == SMALL
    world.large.wait_ready(90)
    wait_until(lambda: tried(world, "ruled").get("model") == LARGE, "it is back", 60.0)


def tried(world: World, model: str) -> dict[str, str]:
    """Of a request that may fail."""
    messages = [{"role": "user", "content": "Can you prove it?"}]
    response = world.client.chat(model=model, messages=messages, max_tokens=2)
    return members(response) if response.status_code == httpx.codes.OK else {}


def test_a_dead_plan_leaves_the_default(world: World) -> None:
    """The last test here: Triton does not start a model's process again."""
    world.route_stub().kill()
    wait_until(lambda: members(world.ask("Is it dead?")).get("reason") == "default", "the default answers", 20.0)
    began = time.monotonic()
    for _ in range(5):
        assert members(world.ask("Is it dead?"))["model"] == SMALL
    assert time.monotonic() - began < 5 * (BOUND_S + 1.0)
