"""A whole gateway with two models on two Triton servers, and routers that choose between them."""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.auth.store import KeyStore
from gateway.errors import BackendFailed
from tests.fakes.triton import FakeTriton
from tests.unit.gateway.conftest import Gateway, StartGateway

CHAT = "/v1/chat/completions"
SMALL = {"model": "tiny", "quality": [[0, 1.0], [1, 0.0]], "cost": 1, "tools": False}
LARGE = {"model": "huge", "quality": [[0, 1.0], [1, 0.8]], "cost": 20}
AUTO = {"name": "auto", "candidates": [SMALL, LARGE], "target": 0.7}
RULES = [
    {"name": "proofs", "use": "huge", "pattern": r"(?i)\bprove\b"},
    {"name": "greetings", "use": "tiny", "max_chars": 5},
]
ROUTERS = [
    AUTO,
    AUTO | {"name": "ruled", "rules": RULES},
    AUTO | {"name": "cheap", "policy": "cost", "max_cost": 0.5},
    AUTO | {"name": "loose", "sticky_s": 0},
]


@pytest.fixture
async def large() -> AsyncIterator[FakeTriton]:
    async with FakeTriton().serve() as fake:
        yield fake


@pytest.fixture
def variables(triton: FakeTriton, large: FakeTriton, model_dir: Path) -> dict[str, str]:
    """`tiny` takes 256 tokens on one server, `huge` 2,000 on the other; both have `plan`, the first is asked."""
    backends = [
        {"id": "a", "url": triton.url, "models": ["tiny", "tiny-embed", "plan"]},
        {"id": "b", "url": large.url, "models": ["huge"]},
    ]
    return {
        "TRIREME_MORE_MODELS": json.dumps([{"name": "huge", "dir": str(model_dir), "max_model_len": 2000}]),
        "TRIREME_BACKENDS": json.dumps(backends),
        "TRIREME_ROUTERS": json.dumps(ROUTERS),
        "TRIREME_PLAN_TIMEOUT_S": "5",
        "TRIREME_PLAN_FAILURES": "2",
    }


@pytest.fixture
async def gateway(start: StartGateway, variables: dict[str, str]) -> AsyncIterator[Gateway]:
    async with start(**variables) as running:
        yield running


def chat(*contents: str, model: str = "auto", **fields: Any) -> dict[str, Any]:
    """Turns of the user and the assistant, the user first."""
    roles = ("user", "assistant") * len(contents)
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    return {"model": model, "messages": messages, "max_tokens": 3, **fields}


async def answered_by(gateway: Gateway, body: dict[str, Any], **headers: str) -> str:
    status, answer = await gateway.ask(CHAT, body, **headers)
    assert status == 200, answer
    name: str = answer["model"]
    return name


@pytest.mark.parametrize(("score", "model"), [(0.1, "tiny"), (0.3, "tiny"), (0.5, "huge"), (0.9, "huge")])
async def test_what_is_easy_goes_to_the_cheap_model_and_what_is_hard_to_the_other(
    gateway: Gateway, triton: FakeTriton, large: FakeTriton, score: float, model: str
) -> None:
    triton.score = score
    assert await answered_by(gateway, chat("How many oars has it?")) == model
    assert triton.plans == ["How many oars has it?"]
    assert len((triton if model == "tiny" else large).requests) == 1


async def test_administrators_are_told_why_and_nobody_else(
    gateway: Gateway, triton: FakeTriton, store: KeyStore
) -> None:
    triton.score = 0.5
    async with gateway.client.post(CHAT, json=chat("Why?")) as response:
        assert response.headers["x-router"] == (
            'auto; model="huge"; reason=target; score=0.500; predicted=0.900; others="tiny: target 0.7 (0.500)"'
        )
        assert "choice;dur=" in response.headers["server-timing"]
    _, plain = await store.create(tenant="acme", name="plain", scopes=frozenset({"inference"}))
    headers = {"authorization": f"Bearer {plain}"}
    async with gateway.client.post(CHAT, json=chat("Why?"), headers=headers) as response:
        assert (response.status, "x-router" in response.headers) == (200, False)


async def test_choices_are_counted(gateway: Gateway, triton: FakeTriton) -> None:
    triton.score = 0.25
    await answered_by(gateway, chat("Why?"))
    async with gateway.client.get("/metrics") as response:
        text = await response.text()
    assert 'trireme_router_choices_total{model="tiny",reason="target",router="auto"} 1.0' in text
    assert 'trireme_plans_total{outcome="ok"} 1.0' in text


async def test_a_stream_comes_from_the_chosen_model(gateway: Gateway, triton: FakeTriton, large: FakeTriton) -> None:
    triton.score = 0.9
    async with gateway.client.post(CHAT, json=chat("Why?", stream=True)) as response:
        text = await response.text()
    assert '"model":"huge"' in text
    assert len(large.requests) == 1


async def test_rules_decide_before_anything_is_asked(gateway: Gateway, triton: FakeTriton) -> None:
    triton.score = 0.1
    assert await answered_by(gateway, chat("Please prove it", model="ruled")) == "huge"
    assert await answered_by(gateway, chat("Hello", model="ruled")) == "tiny"
    assert triton.plans == []
    assert await answered_by(gateway, chat("Tell me more", model="ruled")) == "tiny"
    assert triton.plans == ["Tell me more"]


async def test_what_is_too_dear_is_no_rules_and_nothing_is_asked_for_its_sake(
    start: StartGateway, variables: dict[str, str], triton: FakeTriton
) -> None:
    middle = LARGE | {"cost": 5, "model": "middle"}
    capped = {"name": "capped", "candidates": [SMALL, middle, LARGE], "target": 0.7, "max_cost": 10, "rules": RULES}
    pair = capped | {"name": "pair", "candidates": [SMALL, LARGE]}
    models = json.loads(variables["TRIREME_MORE_MODELS"])
    variables |= {
        "TRIREME_ROUTERS": json.dumps([capped, pair]),
        "TRIREME_MORE_MODELS": json.dumps([*models, models[0] | {"name": "middle"}]),
    }
    triton.score = 0.9
    async with start(**variables) as gateway:
        assert await answered_by(gateway, chat("Tell me more", model="pair")) == "tiny"
        assert triton.plans == []
        async with gateway.client.post(CHAT, json=chat("Prove it", model="capped")) as response:
            told = response.headers["x-router"]
        assert ("rule=" in told, "score=0.900" in told) == (False, True)
        assert triton.plans == ["Prove it"]


async def test_what_is_too_long_for_a_candidate_goes_to_one_with_room_and_asks_nothing(
    gateway: Gateway, triton: FakeTriton
) -> None:
    triton.score = 0.0
    assert await answered_by(gateway, chat("long " * 100)) == "huge"
    assert await answered_by(gateway, chat("short", max_tokens=300)) == "huge"
    assert triton.plans == []


async def test_what_just_fits_is_counted_exactly(gateway: Gateway, triton: FakeTriton) -> None:
    """The template writes 6 + 11 characters around a turn, each a token here: 236 + 17 + 3 are 256."""
    triton.score = 0.0
    assert await answered_by(gateway, chat("x" * 236)) == "tiny"
    assert await answered_by(gateway, chat("x" * 237)) == "huge"


async def test_tools_need_a_candidate_that_has_them(gateway: Gateway, triton: FakeTriton) -> None:
    triton.score = 0.0
    tools = [{"type": "function", "function": {"name": "row", "parameters": {"type": "object"}}}]
    async with gateway.client.post(CHAT, json=chat("Row!", tools=tools)) as response:
        assert response.status == 200
        assert 'others="tiny: has no tools"' in response.headers["x-router"]
    assert await answered_by(gateway, chat("Row!", tools=tools, tool_choice="none")) == "tiny"
    assert triton.plans == ["Row!"]


async def test_where_nobody_can_the_client_is_told_of_each_why(gateway: Gateway) -> None:
    status, answer = await gateway.ask(CHAT, chat("long " * 1000))
    assert (status, answer["error"]["code"], answer["error"]["param"]) == (400, "no_model_fits", "model")
    assert "tiny: too short a context, huge: too short a context" in answer["error"]["message"]
    status, answer = await gateway.ask(CHAT, chat("Why?", model="cheap"))
    assert (status, answer["error"]["code"]) == (400, "no_model_fits")
    assert "huge: costs 20, more than 0.5" in answer["error"]["message"]


async def test_when_plan_hangs_the_default_answers_within_the_bound(
    start: StartGateway, variables: dict[str, str], triton: FakeTriton
) -> None:
    triton.plan_hangs = True
    async with start(**variables | {"TRIREME_PLAN_TIMEOUT_S": "0.05"}) as gateway:
        began = time.monotonic()
        async with gateway.client.post(CHAT, json=chat("Why?")) as response:
            assert response.headers["x-router"].startswith(
                'auto; model="tiny"; reason=default; unscored=backend_timeout'
            )
        assert time.monotonic() - began < 2
        for _ in range(3):
            assert await answered_by(gateway, chat("Why?")) == "tiny"
        assert len(triton.plans) == 2, "after two failures nobody asks for a while"


async def test_when_no_backend_has_plan_the_default_answers(
    start: StartGateway, variables: dict[str, str], triton: FakeTriton, large: FakeTriton
) -> None:
    backends = [{"id": "a", "url": triton.url, "models": ["tiny"]}, {"id": "b", "url": large.url, "models": ["huge"]}]
    async with start(**variables | {"TRIREME_BACKENDS": json.dumps(backends)}) as gateway:
        async with gateway.client.post(CHAT, json=chat("Why?")) as response:
            assert "unscored=plan_skipped" in response.headers["x-router"]
        assert triton.plans == []


async def test_a_model_whose_backend_is_dead_is_not_chosen(
    gateway: Gateway, triton: FakeTriton, large: FakeTriton
) -> None:
    triton.score = 0.9
    await large.stop()
    status, _ = await gateway.ask(CHAT, chat("Why?"))
    assert status == BackendFailed.status
    assert await answered_by(gateway, chat("Why?")) == "tiny"


async def test_a_conversation_keeps_its_model(gateway: Gateway, triton: FakeTriton) -> None:
    triton.score = 0.9
    assert await answered_by(gateway, chat("Prove it")) == "huge"
    triton.score = 0.1
    assert await answered_by(gateway, chat("Prove it", "Done", "Thanks")) == "huge"
    assert await answered_by(gateway, chat("Something else", "Yes", "Thanks")) == "tiny"
    assert await answered_by(gateway, chat("Prove it")) == "tiny", "the same first turn may be anybody's"


async def test_a_session_keeps_its_model_until_that_is_not_good_enough(gateway: Gateway, triton: FakeTriton) -> None:
    triton.score = 0.25
    assert await answered_by(gateway, chat("Hello"), x_session_id="s") == "tiny"
    triton.score = 0.32
    assert await answered_by(gateway, chat("And now?"), x_session_id="s") == "tiny"
    triton.score = 0.9
    assert await answered_by(gateway, chat("Prove it"), x_session_id="s") == "huge"
    assert await answered_by(gateway, chat("Prove it", model="loose"), x_session_id="s") == "huge"


async def test_without_stickiness_each_turn_is_chosen_for_itself(gateway: Gateway, triton: FakeTriton) -> None:
    triton.score = 0.9
    assert await answered_by(gateway, chat("Prove it", model="loose"), x_session_id="s") == "huge"
    triton.score = 0.1
    assert await answered_by(gateway, chat("Thanks", model="loose"), x_session_id="s") == "tiny"


async def test_a_key_gets_of_a_router_what_it_may_use(gateway: Gateway, triton: FakeTriton, store: KeyStore) -> None:
    triton.score = 0.9

    async def ask(*models: str) -> tuple[int, Any]:
        _, secret = await store.create(
            tenant="acme", name="-".join(models), scopes=frozenset({"inference"}), models=frozenset(models)
        )
        headers = {"authorization": f"Bearer {secret}"}
        async with gateway.client.post(CHAT, json=chat("Why?"), headers=headers) as response:
            return response.status, await response.json()

    assert (await ask("tiny"))[1]["model"] == "tiny"
    assert (await ask("auto"))[1]["model"] == "huge"
    assert (await ask("tiny", "huge"))[1]["model"] == "huge"
    status, answer = await ask("tiny-embed")
    assert (status, answer["error"]["code"]) == (403, "model_not_allowed")


async def test_routers_are_among_the_models_and_have_no_tokens_of_their_own(gateway: Gateway) -> None:
    async with gateway.client.get("/v1/models") as response:
        names = {one["id"]: one for one in (await response.json())["data"]}
    assert names.keys() == {"tiny", "huge", "tiny-embed", "auto", "ruled", "cheap", "loose"}
    assert names["auto"]["max_model_len"] == 2000
    status, answer = await gateway.ask("/tokenize", {"model": "auto", "prompt": "hi"})
    assert (status, answer["error"]["param"]) == (400, "model")
    assert "name one of tiny, huge" in answer["error"]["message"]
    status, answer = await gateway.ask("/v1/embeddings", {"model": "auto", "input": "hi"})
    assert (status, answer["error"]["param"]) == (400, "model")


async def test_a_completion_is_routed_by_its_prompt(gateway: Gateway, triton: FakeTriton) -> None:
    triton.score = 0.9
    status, answer = await gateway.ask("/v1/completions", {"model": "auto", "prompt": "Prove", "max_tokens": 3})
    assert (status, answer["model"], triton.plans) == (200, "huge", ["Prove"])
    status, answer = await gateway.ask("/v1/completions", {"model": "auto", "prompt": [1, 2], "max_tokens": 3})
    assert (status, answer["model"], len(triton.plans)) == (200, "tiny", 1)


async def test_any_other_name_is_its_own_model(gateway: Gateway, triton: FakeTriton) -> None:
    triton.score = 0.9
    assert await answered_by(gateway, chat("Why?", model="tiny")) == "tiny"
    assert triton.plans == []
