"""The ensemble `plan` on a real tritonserver: a score, the reason, and the embedding, in one call."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support.triton import triton_error
from trireme.stack import EmbeddedStack

pytestmark = pytest.mark.integration


class PlanClient:
    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=60)

    def close(self) -> None:
        self._http.close()

    def infer(self, model: str, name: str, text: str) -> httpx.Response:
        tensor = {"name": name, "shape": [1], "datatype": "BYTES", "data": [text]}
        return self._http.post(f"/v2/models/{model}/infer", json={"inputs": [tensor]})

    def outputs(self, model: str, name: str, text: str) -> dict[str, Any]:
        response = self.infer(model, name, text)
        assert response.status_code == httpx.codes.OK, response.text
        return {one["name"]: np.array(one["data"]).reshape(one["shape"]) for one in response.json()["outputs"]}

    def plan(self, *contents: str) -> dict[str, Any]:
        return self.outputs("plan", "request", chat(*contents))


def chat(*contents: str) -> str:
    return json.dumps({"messages": [{"role": "user", "content": content} for content in contents]})


@pytest.fixture(scope="module")
def client(triton: EmbeddedStack) -> Iterator[PlanClient]:
    one = PlanClient(triton.triton_url)
    yield one
    one.close()


def test_one_call_gives_the_score_its_reason_and_the_embedding(client: PlanClient) -> None:
    planned = client.plan("Why is the sky blue?")
    decision = json.loads(planned["decision"][0])
    assert planned["score"] == pytest.approx([decision["score"]])
    assert 0 < decision["score"] < 1
    assert decision["scorer"] == "minilm-linear-1"
    assert "meaning" in decision["parts"] or len(decision["parts"]) == 3
    assert planned["embedding"].shape == (1, 384)


def test_the_embedding_is_that_of_the_last_turn_of_the_user(client: PlanClient) -> None:
    planned = client.plan("What is a trireme?", "How many oars has it?")
    alone = client.outputs("embed", "text", "How many oars has it?")
    assert planned["embedding"] == pytest.approx(alone["embedding"])
    assert planned["prompt_tokens"] == alone["prompt_tokens"]


def test_a_long_text_is_embedded_as_far_as_it_goes(client: PlanClient) -> None:
    assert client.plan("word " * 5000)["prompt_tokens"] == [256]
    refused = client.infer("embed", "text", "word " * 5000)
    assert triton_error(refused.json())["code"] == "context_length_exceeded"


def test_a_request_without_text_is_refused(client: PlanClient) -> None:
    refused = client.infer("plan", "request", json.dumps({"prompt": [1, 2, 3]}))
    assert refused.status_code == httpx.codes.BAD_REQUEST
    assert "no text" in triton_error(refused.json())["message"]


def test_preprocess_still_plans_for_whoever_asks_it_for_everything(client: PlanClient) -> None:
    outputs = client.outputs("preprocess", "request", chat("Hi"))
    assert {"input_ids", "plan", "text", "features", "options"} <= outputs.keys()
    assert outputs["text"] == ["Hi"]
