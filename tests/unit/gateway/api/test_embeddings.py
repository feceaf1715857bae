"""POST /v1/embeddings, whole."""

import base64
from typing import Any

import msgspec
import numpy as np
import pytest
from redis.asyncio import Redis

from gateway.accounting.entries import Entry
from gateway.accounting.stream import STREAM
from gateway.api.keys import ROUTER
from gateway.core.document import KEY
from gateway.core.snapshot import Arm, Division, ModelRoute, RoutingSnapshot, encode_snapshot
from python_backends.messages import EmbeddingOptions
from tests.fakes.triton import FakeTriton
from tests.unit.gateway.conftest import Gateway, StartGateway
from tests.unit.gateway.waiting import until

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


async def test_fewer_dimensions_are_left_to_the_model(gateway: Gateway, triton: FakeTriton) -> None:
    _, answer = await gateway.ask(PATH, BODY | {"dimensions": 3, "normalize": True})
    assert answer["data"][0]["embedding"] == pytest.approx(np.array([3, 3, 4]) / np.sqrt(34))
    assert triton.options == [EmbeddingOptions(dimensions=3, normalize=True)]


@pytest.mark.parametrize("dimensions", [2, 5])
async def test_dimensions_that_the_model_was_not_trained_for_are_refused(gateway: Gateway, dimensions: int) -> None:
    status, answer = await gateway.ask(PATH, BODY | {"dimensions": dimensions})
    assert (status, answer["error"]["param"], answer["error"]["code"]) == (400, "dimensions", "unsupported_value")
    assert "can be cut to 3" in answer["error"]["message"]


async def test_the_models_own_dimensions_are_always_right(gateway: Gateway, triton: FakeTriton) -> None:
    status, _ = await gateway.ask(PATH, BODY | {"dimensions": 4})
    assert (status, triton.options) == (200, [EmbeddingOptions()])


async def test_the_pooling_of_a_request_is_the_models_or_refused(gateway: Gateway, triton: FakeTriton) -> None:
    status, _ = await gateway.ask(PATH, BODY | {"pooling": "cls"})
    assert (status, triton.options) == (200, [EmbeddingOptions(pooling="cls")])
    status, answer = await gateway.ask(PATH, BODY | {"pooling": "last"})
    assert (status, answer["error"]["param"]) == (400, "pooling")
    status, answer = await gateway.ask(PATH, BODY | {"pooling": "max"})
    assert (status, answer["error"]["param"]) == (400, "pooling")
    assert "mean, last, cls" in answer["error"]["message"]


async def test_what_is_left_out_of_a_long_text_does_not_count(gateway: Gateway, triton: FakeTriton) -> None:
    _, answer = await gateway.ask(PATH, BODY | {"input": ["a", "b" * 300], "truncate": "end"})
    assert answer["usage"]["prompt_tokens"] == 257
    assert [len(one) for one in triton.inferences[0]] == [1, 256]


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


RERANK = "/v1/rerank"


async def test_documents_come_in_the_order_of_their_likeness(gateway: Gateway) -> None:
    body = {"model": "tiny-embed", "query": "aa", "documents": ["zzz", {"text": "aa"}, "ab"], "top_n": 2}
    status, answer = await gateway.ask(RERANK, body | {"return_documents": True})
    assert status == 200
    first, second = answer["results"]
    assert (first["index"], first["document"]) == (1, {"text": "aa"})
    assert first["relevance_score"] == pytest.approx(1.0)
    assert first["relevance_score"] > second["relevance_score"]
    assert answer["usage"] == {"prompt_tokens": 9, "total_tokens": 9}
    assert answer["id"].startswith("rerank-")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"documents": ["a"]}, "query"),
        ({"query": "a", "documents": []}, "documents"),
        ({"query": "a", "documents": ["a", 5]}, "documents[1]"),
        ({"query": "a", "documents": ["a"], "top_n": 0}, "top_n"),
        ({"query": "a", "documents": ["a"], "rank_fields": ["x"]}, "rank_fields"),
    ],
)
async def test_a_wrong_body_names_its_field(gateway: Gateway, body: dict[str, Any], param: str) -> None:
    status, answer = await gateway.ask(RERANK, {"model": "tiny-embed", **body})
    assert (status, answer["error"]["param"]) == (400, param)


async def test_a_user_counts_as_one_in_an_experiment_wherever_it_asks(start: StartGateway, redis: Redis) -> None:
    arms = (Arm(name="stable", triton_model="embed"), Arm(name="new", triton_model="embed"))
    route = ModelRoute(name="tiny-embed", arms=arms, division=Division(experiment="ex_1", by="user"))
    await redis.set(KEY, encode_snapshot(RoutingSnapshot(version=1, models=(route,))))
    async with start() as gateway:
        await until(lambda: gateway.app[ROUTER].snapshot.version == 1)
        await gateway.ask(PATH, BODY | {"user": "ada"})
        await gateway.ask(RERANK, {"model": "tiny-embed", "query": "a", "documents": ["b"], "user": "ada"})
    entries = [msgspec.json.decode(fields[b"entry"], type=Entry) for _, fields in await redis.xrange(STREAM)]
    first, second = entries
    assert first.experiment == "ex_1"
    assert (first.unit, first.arm) == (second.unit, second.arm)
