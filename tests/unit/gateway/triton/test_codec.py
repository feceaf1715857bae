"""The bytes of Triton's HTTP endpoints."""

import json

import numpy as np
import pytest

from gateway.core.call import Call
from gateway.core.job import EmbeddingJob, GenerationJob, Prompt
from gateway.core.limit import TimeLimit
from gateway.errors import BackendFailed
from gateway.triton.codec import JSON_LENGTH, embed_answer, embed_request, stream_request
from python_backends.messages import EmbeddingOptions
from python_backends.preprocessing.parsing import parse_chat, parse_generation
from python_backends.preprocessing.schema import ChatRequest


def test_the_forwarded_body_is_a_valid_pretokenized_request() -> None:
    body = parse_chat(
        b'{"model":"m","messages":[{"role":"user","content":"x"}],"stream":true,"stream_options":{},'
        b'"max_completion_tokens":5,"seed":1,"user":"u"}'
    )
    call = Call(id="r", uid="u", route="/", limit=TimeLimit(2), traceparent="00-a-b-01", priority_class="batch")
    sent = json.loads(stream_request(call, GenerationJob(body, []), Prompt([1, 2], 5), "r.u-0"))
    assert sent["id"] == "r.u-0"
    assert sent["input_ids"] == [1, 2]
    assert sent["priority"] == 2
    assert sent["traceparent"] == "00-a-b-01"
    assert 2000 < sent["deadline_ms"] <= 2500
    request = parse_generation(sent["request"], pretokenized=True)
    assert isinstance(request, ChatRequest)
    assert request.token_limit == 5
    assert request.messages is None
    assert json.loads(sent["request"]).keys() == {"kind", "max_tokens", "seed", "user"}
    assert body.max_completion_tokens == 5


def test_embedding_inputs_are_one_tensor_with_their_lengths() -> None:
    data, headers = embed_request(EmbeddingJob([[1, 2, 3], [4]], EmbeddingOptions(pooling="cls")))
    length = int(headers[JSON_LENGTH])
    described = json.loads(data[:length])
    *tensors, options = described["inputs"]
    assert [(one["name"], one["shape"]) for one in tensors] == [("input_ids", [4]), ("lengths", [2])]
    assert (options["name"], json.loads(options["data"][0])) == ("options", {"pooling": "cls"})
    assert np.frombuffer(data[length:], dtype="<i4").tolist() == [1, 2, 3, 4, 3, 1]


def answer(shape: list[int], data: bytes) -> tuple[bytes, dict[str, str]]:
    outputs = [
        {"name": "prompt_tokens", "datatype": "INT32", "shape": [2], "parameters": {"binary_data_size": 8}},
        {"name": "embedding", "datatype": "FP32", "shape": shape, "parameters": {"binary_data_size": len(data)}},
    ]
    header = json.dumps({"model_name": "embed", "model_version": "7", "outputs": outputs}).encode()
    counts = np.array([3, 1], dtype="<i4").tobytes()
    return header + counts + data, {JSON_LENGTH: str(len(header))}


def test_an_embedding_answer_is_read_whatever_the_order_of_its_outputs() -> None:
    vectors = np.arange(6, dtype="<f4").reshape(2, 3)
    result = embed_answer(*answer([2, 3], vectors.tobytes()))
    assert result.vectors.tolist() == vectors.tolist()
    assert (result.prompt_tokens, result.model_version) == (4, "7")


def test_an_answer_that_does_not_add_up_is_a_failure() -> None:
    with pytest.raises(BackendFailed):
        embed_answer(*answer([2, 3], b"\0" * 8))
    for body, headers in ((b"{}", {}), (b"{}", {JSON_LENGTH: "2"}), (b"{", {JSON_LENGTH: "1"})):
        with pytest.raises(BackendFailed):
            embed_answer(body, headers)
