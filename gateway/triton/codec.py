"""Values ↔ the bytes that Triton's HTTP endpoints speak (model_repository/README.md)."""

from collections.abc import Mapping
from itertools import chain
from typing import Any

import msgspec
import numpy as np

from gateway.core.call import Call
from gateway.core.job import EmbeddingJob, GenerationJob, Planned, Prompt, Vectors
from gateway.errors import BackendFailed
from python_backends.messages import Judgement
from python_backends.preprocessing.parsing import encode_pretokenized
from python_backends.preprocessing.schema import ChatRequest, GenerationRequest

JSON_LENGTH = "Inference-Header-Content-Length"
# The engine's own deadline is a second net, so it must not be the one that strikes first.
ENGINE_GRACE_MS = 500


class StreamRequest(msgspec.Struct, omit_defaults=True):
    """One `generate_stream` request to the ensemble `chat`."""

    id: str
    request: str
    input_ids: list[int]
    deadline_ms: int
    priority: int
    traceparent: str | None = None
    adapter: str | None = None
    adapter_checksum: str | None = None


class StreamEvent(msgspec.Struct):
    """One event of its answer: `delta` is a Delta as JSON, `error` a text."""

    delta: str | None = None
    error: str | None = None
    model_version: str | None = None


def stream_request(call: Call, job: GenerationJob, prompt: Prompt, engine_id: str) -> bytes:
    adapter = call.model.adapter if call.model is not None else None
    return _ENCODER.encode(
        StreamRequest(
            id=engine_id,
            request=encode_pretokenized(_without_text(job.body, prompt.max_tokens)).decode(),
            input_ids=prompt.ids,
            deadline_ms=int(call.limit.remaining * 1000) + ENGINE_GRACE_MS,
            priority=call.priority,
            traceparent=call.context,
            adapter=None if adapter is None else adapter.path,
            adapter_checksum=None if adapter is None else adapter.checksum,
        )
    )


def _without_text(body: GenerationRequest, max_tokens: int) -> GenerationRequest:
    """The same request with its limit resolved, and without what means nothing to the engine."""
    if isinstance(body, ChatRequest):
        return msgspec.structs.replace(
            body,
            messages=None,
            model=None,
            priority=None,
            stream=None,
            stream_options=None,
            max_tokens=max_tokens,
            max_completion_tokens=None,
        )
    return msgspec.structs.replace(
        body, prompt=None, model=None, priority=None, stream=None, stream_options=None, max_tokens=max_tokens
    )


def embed_request(job: EmbeddingJob) -> tuple[bytes, dict[str, str]]:
    """Body and headers of one `infer` request to `embed`, in Triton's binary form."""
    inputs, options = job.inputs, _ENCODER.encode(job.options)
    lengths = np.fromiter(map(len, inputs), dtype="<i4", count=len(inputs))
    ids = np.fromiter(chain.from_iterable(inputs), dtype="<i4", count=int(lengths.sum()))
    how = {"name": "options", "shape": [1], "datatype": "BYTES", "data": [options.decode()]}
    header = _ENCODER.encode(
        {
            "inputs": [_input("input_ids", ids), _input("lengths", lengths), how],
            "outputs": [{"name": name, "parameters": {"binary_data": True}} for name in ("embedding", "prompt_tokens")],
        }
    )
    headers = {"content-type": "application/octet-stream", JSON_LENGTH: str(len(header))}
    return b"".join((header, ids.tobytes(), lengths.tobytes())), headers


def _input(name: str, values: "np.ndarray[Any, Any]") -> dict[str, Any]:
    return {
        "name": name,
        "shape": [values.size],
        "datatype": "INT32",
        "parameters": {"binary_data_size": values.nbytes},
    }


def plan_request(text: str) -> bytes:
    """One `infer` request to the ensemble `plan`: a chat of one turn. The embedding comes back as binary."""
    request = _ENCODER.encode({"messages": [{"role": "user", "content": text}]}).decode()
    outputs = [{"name": name} for name in ("decision", "prompt_tokens")]
    return _ENCODER.encode(
        {
            "inputs": [{"name": "request", "shape": [1], "datatype": "BYTES", "data": [request]}],
            "outputs": [*outputs, {"name": "embedding", "parameters": {"binary_data": True}}],
        }
    )


class _Parameters(msgspec.Struct):
    binary_data_size: int


class _Output(msgspec.Struct):
    name: str
    shape: list[int]
    parameters: _Parameters


class _Answer(msgspec.Struct):
    outputs: list[_Output]
    model_version: str


_ENCODER = msgspec.json.Encoder()
_ANSWER = msgspec.json.Decoder(_Answer)


class Embedded(msgspec.Struct):
    """`vectors` is float32 [inputs, dimensions]; `prompt_tokens` is their sum."""

    vectors: Vectors
    prompt_tokens: int
    model_version: str


def embed_answer(body: bytes, headers: Mapping[str, str]) -> Embedded:
    """Raises BackendFailed."""
    try:
        start = int(headers[JSON_LENGTH])
        answer = _ANSWER.decode(body[:start])
        raw = {}
        for output in answer.outputs:
            end = start + output.parameters.binary_data_size
            raw[output.name] = (memoryview(body)[start:end], output.shape)
            start = end
        data, shape = raw["embedding"]
        counts, _ = raw["prompt_tokens"]
        vectors = np.frombuffer(data, dtype="<f4").reshape(shape)
        return Embedded(vectors, int(np.frombuffer(counts, dtype="<i4").sum()), answer.model_version)
    except (KeyError, ValueError, msgspec.DecodeError) as error:
        raise BackendFailed("the embedding model's answer makes no sense") from error


class _PlanOutput(msgspec.Struct):
    name: str
    shape: list[int]
    data: list[str | int] | None = None


class _PlanAnswer(msgspec.Struct):
    outputs: list[_PlanOutput]


_PLAN_ANSWER = msgspec.json.Decoder(_PlanAnswer)
_JUDGEMENT = msgspec.json.Decoder(Judgement)


def plan_answer(body: bytes, headers: Mapping[str, str]) -> Planned:
    """Raises BackendFailed."""
    try:
        start = int(headers[JSON_LENGTH])
        outputs = {output.name: output for output in _PLAN_ANSWER.decode(body[:start]).outputs}
        judgement = _JUDGEMENT.decode(str(_only(outputs["decision"])))
        embedding = np.frombuffer(memoryview(body)[start:], dtype="<f4")
        tokens = int(_only(outputs["prompt_tokens"]))
    except (KeyError, ValueError, msgspec.DecodeError) as error:
        raise BackendFailed("the answer of the ensemble `plan` makes no sense") from error
    if not (embedding.size and 0 <= judgement.score <= 1 and np.isfinite(embedding).all()):
        raise BackendFailed("the ensemble `plan` answers with numbers that make no sense")
    return Planned(judgement.score, judgement.parts, judgement.scorer, embedding, tokens)


def _only(output: _PlanOutput) -> str | int:
    """Raises ValueError."""
    if not output.data or len(output.data) != 1:
        raise ValueError(f"{output.name} has not one value")
    return output.data[0]
