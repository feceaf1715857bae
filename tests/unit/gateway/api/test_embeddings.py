"""POST /v1/embeddings, whole."""

import base64
from typing import Any

import numpy as np
import pytest

from tests.fakes.triton import FakeTriton
from tests.unit.gateway.conftest import Gateway

PATH = "/v1/embeddings"
BODY: dict[str, Any] = {"model": "tiny-embed", "input": [[3, 4, 0], [9, 8]]}


async def test_all_inputs_go_in_one_batch_and_come_back_in_order(gateway: Gateway, triton: FakeTriton) -> None:
    status, answer = await gateway.ask(PATH, BODY)
    assert status == 200
    assert triton.inferences == [[[3, 4, 0], [9, 8]]]
    assert answer == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [3.0, 3.0, 4.0, 0.0]},
            {"object": "embedding", "index": 1, "embedding": [2.0, 9.0, 8.0, 0.0]},
        ],
        "model": "tiny-embed",
        "usage": {"prompt_tokens": 5, "total_tokens": 5},
    }


async def test_base64_is_little_endian_float32(gateway: Gateway) -> None:
    _, answer = await gateway.ask(PATH, BODY | {"encoding_format": "base64"})
    vector = np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), dtype="<f4")
    assert vector.tolist() == [3.0, 3.0, 4.0, 0.0]


async def test_fewer_dimensions_are_a_beginning_of_length_one(gateway: Gateway) -> None:
    _, answer = await gateway.ask(PATH, BODY | {"dimensions": 3})
    vector = answer["data"][0]["embedding"]
    assert vector == pytest.approx(np.array([3, 3, 4]) / np.sqrt(34))


async def test_more_dimensions_than_the_model_has_are_refused(gateway: Gateway, triton: FakeTriton) -> None:
    status, answer = await gateway.ask(PATH, BODY | {"dimensions": 5})
    assert (status, answer["error"]["param"]) == (400, "dimensions")
    assert triton.inferences == []


async def test_a_text_is_one_input(gateway: Gateway, triton: FakeTriton) -> None:
    _, answer = await gateway.ask(PATH, BODY | {"input": "abcd"})
    assert len(answer["data"]) == 1
    assert answer["usage"]["prompt_tokens"] == 4


async def test_a_text_that_is_too_long_is_refused_not_cut(gateway: Gateway) -> None:
    status, answer = await gateway.ask(PATH, BODY | {"input": ["a", "b" * 300]})
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
    assert "256" in answer["error"]["message"]
    assert "300" in answer["error"]["message"]


async def test_a_model_that_generates_is_refused(gateway: Gateway) -> None:
    status, answer = await gateway.ask(PATH, BODY | {"model": "tiny"})
    assert (status, answer["error"]["param"]) == (400, "model")
    assert "/v1/chat/completions" in answer["error"]["message"]
