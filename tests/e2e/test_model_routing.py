"""The real ensemble `plan` with MiniLM, and a router between two models of the real engine."""

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from python_backends.routing.features import features_of
from python_backends.routing.scorer import Scorer
from tests.e2e.conftest import LITTLE_MODEL
from tests.support.gateway import LONG
from trireme.stack import EmbeddedStack

pytestmark = pytest.mark.e2e
SCORER = Path(__file__).resolve().parents[2] / "model_repository" / "route" / "1"
EASY = "A small office supply company asks: who must sign the contract with its supplier?"
HARD = "Find the degree of the field extension Q(sqrt(2), sqrt(3), sqrt(18)) over Q. A. 0 B. 4 C. 2 D. 6"


def plan(stack: EmbeddedStack, text: str) -> dict[str, Any]:
    request = json.dumps({"messages": [{"role": "user", "content": text}]})
    tensor = {"name": "request", "shape": [1], "datatype": "BYTES", "data": [request]}
    response = httpx.post(f"{stack.triton_url}/v2/models/plan/infer", json={"inputs": [tensor]}, timeout=LONG)
    assert response.status_code == httpx.codes.OK, response.text
    return {one["name"]: np.array(one["data"]).reshape(one["shape"]) for one in response.json()["outputs"]}


@pytest.mark.parametrize("text", [EASY, HARD, "Hi"])
def test_the_score_is_that_of_the_shipped_weights_for_this_embedding_and_text(stack: EmbeddedStack, text: str) -> None:
    planned = plan(stack, text)
    expected = Scorer.load(SCORER).judge(planned["embedding"].astype(np.float32), features_of(text))
    assert planned["score"] == pytest.approx([expected.score], abs=1e-4)
    assert np.linalg.norm(planned["embedding"]) == pytest.approx(1, abs=1e-3)


def test_algebra_is_harder_than_a_question_of_every_day(stack: EmbeddedStack) -> None:
    assert plan(stack, HARD)["score"][0] > plan(stack, EASY)["score"][0]


@pytest.mark.parametrize(("text", "stream"), [(EASY, False), (EASY, True), (HARD, False), (HARD, True)])
def test_the_router_goes_by_the_score_and_the_chosen_model_answers(
    stack: EmbeddedStack, client: openai.OpenAI, model: str, text: str, stream: bool
) -> None:
    expected = LITTLE_MODEL if 1 - plan(stack, text)["score"][0] >= 0.65 else model
    asked: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": text}], "max_tokens": 4}
    answer = client.chat.completions.with_raw_response.create(**asked, stream=stream, extra_body={"min_tokens": 4})
    assert f'auto; model="{expected}"; reason=target; score=' in answer.headers["x-router"]
    if stream:
        chunks = list(answer.parse())
        assert {one.model for one in chunks} == {expected}
        assert any(one.choices[0].delta.content for one in chunks)
    else:
        assert answer.parse().model == expected
        assert answer.parse().choices[0].message.content


def test_what_is_too_long_for_the_one_goes_to_the_other(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model="auto", messages=[{"role": "user", "content": "ship " * 600}], max_tokens=4, temperature=0
    )
    assert answer.model == model
