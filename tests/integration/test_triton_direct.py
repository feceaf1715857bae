"""The Triton models as a public contract: what a client without the gateway gets."""

import json
import threading
from collections.abc import Iterator
from queue import Queue
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient

from python_backends.llm.scripted import token_id, token_text
from tests.support.triton import DirectTriton, finish_of, text_of
from trireme.stack import EmbeddedStack

pytestmark = pytest.mark.integration
CHAT = {"messages": [{"role": "user", "content": "hi"}]}
LONG = 30.0


@pytest.fixture(scope="module")
def direct(triton: EmbeddedStack) -> Iterator[DirectTriton]:
    client = DirectTriton(triton.triton_url)
    yield client
    client.close()


def scripted_text(ids: list[int], tokens: int, index: int = 0) -> str:
    return "".join(token_text(token_id(ids, index, number)) for number in range(tokens))


def test_a_chat_streams_every_token_in_order_with_its_usage(direct: DirectTriton) -> None:
    deltas = direct.deltas({"max_tokens": 40}, input_ids=[5, 6, 7])
    assert text_of(deltas) == scripted_text([5, 6, 7], 40)
    assert finish_of(deltas) == ["length"]
    assert deltas[-1]["usage"] == {"prompt": 3, "completion": 40}
    assert sum(one["tokens"] for one in deltas) == 40
    assert deltas[0]["choice"]["delta"]["role"] == "assistant"


def test_a_whole_body_is_tokenized_by_preprocess(direct: DirectTriton) -> None:
    deltas = direct.deltas({**CHAT, "max_tokens": 3})
    assert finish_of(deltas) == ["length"]
    assert deltas[-1]["usage"]["prompt"] > 10


def test_many_streams_at_once_keep_their_order(direct: DirectTriton) -> None:
    results: dict[int, str] = {}

    def run(number: int) -> None:
        deltas = direct.deltas({"max_tokens": 100}, input_ids=[number], script_delay_ms=1)
        results[number] = text_of(deltas)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert results == {number: scripted_text([number], 100) for number in range(24)}


def test_choices_stop_strings_and_logprobs_are_served(direct: DirectTriton) -> None:
    stop = token_text(token_id([1], 0, 4)).strip()
    body = {"max_tokens": 10, "n": 2, "stop": [stop], "logprobs": True, "top_logprobs": 1}
    deltas = direct.deltas(body, input_ids=[1])
    assert text_of(deltas, 0) == scripted_text([1], 4)
    assert text_of(deltas, 1) == scripted_text([1], 10, index=1)
    assert (finish_of(deltas, 0), finish_of(deltas, 1)) == (["stop"], ["length"])
    first = deltas[0]["choice"]["logprobs"]["content"][0]
    assert set(first) == {"token", "logprob", "bytes", "top_logprobs"}


def test_a_text_completion_echoes_its_prompt(direct: DirectTriton) -> None:
    deltas = direct.deltas({"prompt": "hello", "max_tokens": 2, "echo": True, "logprobs": 1})
    assert text_of(deltas).startswith("helloword")
    assert deltas[0]["choice"]["logprobs"]["tokens"][0] == "hello"


@pytest.mark.parametrize(
    ("body", "parameters", "code", "param"),
    [
        ({"foo": 1}, {}, "unknown_parameter", "foo"),
        ({}, {}, "missing_required_parameter", "messages"),
        ({**CHAT, "max_tokens": 100_000}, {}, "context_length_exceeded", "max_tokens"),
        ({"prompt": ["a", "b"]}, {}, "invalid_value", "prompt"),
        (CHAT, {"priority": "high"}, "invalid_type", "priority"),
        (CHAT, {"script_fail_at": "x"}, "invalid_parameter", "parameters"),
    ],
)
def test_a_wrong_request_gets_an_error_object(
    direct: DirectTriton, body: dict[str, Any], parameters: dict[str, Any], code: str, param: str
) -> None:
    (only,) = direct.deltas(body, **parameters)
    assert (only["error"]["code"], only["error"]["param"]) == (code, param)
    assert only["error"]["type"] == "invalid_request_error"


def test_an_engine_failure_in_mid_stream_ends_the_stream_with_an_error(direct: DirectTriton) -> None:
    *before, last = direct.deltas({"max_tokens": 9}, input_ids=[1], script_fail_at=3)
    assert text_of(before) == scripted_text([1], 3)
    assert last["error"]["code"] == "scripted_failure"


def test_orders_to_the_scripted_engine_may_come_in_the_metadata(direct: DirectTriton) -> None:
    *before, last = direct.deltas({"max_tokens": 9, "metadata": {"script_fail_at": "2"}}, input_ids=[1])
    assert text_of(before) == scripted_text([1], 2)
    assert last["error"]["code"] == "scripted_failure"


def test_an_abort_ends_the_stream_and_the_engines_work(direct: DirectTriton) -> None:
    seen: Queue[dict[str, Any]] = Queue()

    def run() -> None:
        for delta in direct.stream({"max_tokens": 500}, input_ids=[1], id="to-abort", script_delay_ms=20):
            seen.put(delta)

    thread = threading.Thread(target=run)
    thread.start()
    seen.get(timeout=LONG)
    assert direct.control(control="abort", ids=["to-abort"]) == {"aborted": 1}
    thread.join(LONG)
    rest = [seen.get_nowait() for _ in range(seen.qsize())]
    assert finish_of(rest) == ["abort"]
    assert rest[-1]["usage"]["completion"] < 100
    assert direct.control(control="stats")["running"] == 0


def test_a_deadline_ends_a_stream_that_hangs(direct: DirectTriton) -> None:
    deltas = direct.deltas({"max_tokens": 5}, input_ids=[1], script_hang_at=2, deadline_ms=200)
    assert finish_of(deltas) == ["abort"]
    assert deltas[-1]["usage"]["completion"] == 2


def test_a_wrong_control_request_is_refused(direct: DirectTriton) -> None:
    response = direct.post("/v2/models/vllm/generate", {"plan": '{"control": "explode"}'})
    assert response.status_code == 400
    assert "invalid_plan" in response.json()["error"]


def test_grpc_streaming_gives_the_same_deltas(triton: EmbeddedStack, direct: DirectTriton) -> None:
    results: Queue[tuple[Any, Any]] = Queue()
    with grpcclient.InferenceServerClient(triton.triton_grpc_url) as client:
        request = grpcclient.InferInput("request", [1], "BYTES")
        request.set_data_from_numpy(np.array([b'{"max_tokens": 12}'], dtype=np.object_))
        ids = grpcclient.InferInput("input_ids", [2], "INT32")
        ids.set_data_from_numpy(np.array([3, 4], dtype=np.int32))
        client.start_stream(lambda result, error: results.put((result, error)))
        client.async_stream_infer("chat", [request, ids], request_id="grpc-1", enable_empty_final_response=True)
        deltas: list[dict[str, Any]] = []
        while not deltas or "usage" not in deltas[-1]:
            result, error = results.get(timeout=LONG)
            assert error is None
            output = result.as_numpy("delta")
            if output is not None and output.size:
                deltas.append(json.loads(output[0]))
        client.stop_stream()
    assert text_of(deltas) == text_of(direct.deltas({"max_tokens": 12}, input_ids=[3, 4]))


def test_embeddings_come_by_infer_for_texts_and_for_token_ids(direct: DirectTriton) -> None:
    by_text = direct.embed(text=["a cat", "a dog sat"])
    assert by_text["embedding"].shape == (2, 384)
    assert by_text["prompt_tokens"].tolist() == [4, 5]
    by_ids = direct.embed(input_ids=[101, 1037, 4937, 102, 101, 102], lengths=[4, 2])
    assert by_ids["prompt_tokens"].tolist() == [4, 2]
    assert np.allclose(by_ids["embedding"][0], by_text["embedding"][0])


@pytest.mark.parametrize(
    "inputs",
    [
        {"input_ids": [101, 102], "lengths": [3]},
        {"input_ids": [101, 102], "lengths": [2, 0]},
        {"input_ids": [101, 102], "text": ["x"]},
        {"input_ids": [10**6]},
        {"text": ["word " * 600]},
    ],
)
def test_wrong_embedding_inputs_are_refused(direct: DirectTriton, inputs: dict[str, list[Any]]) -> None:
    assert direct.embed(**inputs)["error"]["type"] == "invalid_request_error"


def test_the_repository_index_and_versions_are_served(direct: DirectTriton) -> None:
    index = direct.post("/v2/repository/index").json()
    ready = {one["name"]: one["version"] for one in index if one["state"] == "READY"}
    names = ("chat", "preprocess", "vllm", "postprocess", "embed", "plan", "route")
    assert ready == dict.fromkeys(names, "1")
    assert direct.get("/v2/models/chat/versions/1/ready").status_code == 200
    assert direct.get("/v2/models/chat/versions/9/ready").status_code == 400
    response = direct.post(
        "/v2/models/chat/versions/1/generate_stream", {"request": '{"max_tokens": 1}', "input_ids": [1]}
    )
    assert response.status_code == 200
