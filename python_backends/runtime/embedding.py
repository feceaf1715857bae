"""The `embed` model: Triton requests → embedding worker → Triton responses."""

from pathlib import Path
from typing import Any

import msgspec
import triton_python_backend_utils as pb_utils

from python_backends.embedding.embedder import Embedder, ScriptedEmbedder, Vectors, truncated
from python_backends.embedding.transformers_embedder import TransformersEmbedder
from python_backends.embedding.worker import EmbeddingWorker, Job
from python_backends.llm.engine import EngineError
from python_backends.messages import EmbeddingOptions
from python_backends.preprocessing.errors import RequestError
from python_backends.preprocessing.tokenizer import TextTokenizer
from python_backends.runtime.errors import engine_error, request_error
from python_backends.runtime.settings import EngineSettings
from python_backends.runtime.tensors import float_tensor, int_tensor, read_array


def build_embedder(settings: EngineSettings) -> Embedder:
    if settings.engine == "scripted":
        return ScriptedEmbedder()
    return TransformersEmbedder(settings.model_dir, dict(settings.arguments))


class EmbeddingModel:
    def __init__(self, settings: EngineSettings) -> None:
        self._tokenizer = TextTokenizer.from_dir(Path(settings.model_dir))
        self._embedder = build_embedder(settings)
        self._worker = EmbeddingWorker(self._embedder)

    def start(self) -> None:
        self._worker.start()

    def stop(self) -> None:
        self._worker.stop()

    def execute(self, request: Any) -> None:
        """Every path sends exactly one response, most of them from the worker's thread."""
        sender = request.get_response_sender()

        def answer(response: Any) -> None:
            sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

        try:
            inputs = self._inputs(request)
        except RequestError as error:
            answer(request_error(error))
            return
        self._worker.submit(Job(inputs, lambda result: answer(_response(inputs, result))))

    def _inputs(self, request: Any) -> list[list[int]]:
        """Token ids of each input, from `text`, or from `input_ids` cut by `lengths`. Raises RequestError."""
        ids, texts = read_array(request, "input_ids"), read_array(request, "text")
        if texts is not None and ids is None:
            inputs = self._tokenizer.encode_many([text.decode("utf-8", "replace") for text in texts])
            if _options(read_array(request, "options")).truncate:
                inputs = [truncated(ids, self._embedder.max_tokens) for ids in inputs]
        elif ids is not None and texts is None:
            inputs = _cut(ids.tolist(), read_array(request, "lengths"))
        else:
            raise RequestError("send text, or input_ids with lengths", param="text")
        self._check(inputs)
        return inputs

    def _check(self, inputs: list[list[int]]) -> None:
        if not inputs:
            raise RequestError("there is nothing to embed: send at least one input", param="text")
        for number, ids in enumerate(inputs):
            if not 0 < len(ids) <= self._embedder.max_tokens:
                raise RequestError(
                    f"input {number} has {len(ids)} tokens; between 1 and {self._embedder.max_tokens} fit",
                    param="text",
                    code="context_length_exceeded",
                )
            if not 0 <= min(ids) <= max(ids) < self._tokenizer.vocab_size:
                raise RequestError(f"input {number} holds ids that the model does not have", param="input_ids")


def _options(given: Any) -> EmbeddingOptions:
    """Raises RequestError."""
    if given is None:
        return EmbeddingOptions()
    try:
        return msgspec.json.decode(given[0], type=EmbeddingOptions)
    except (msgspec.DecodeError, IndexError) as error:
        raise RequestError(f"options: {error}", param="options") from error


def _cut(ids: list[int], lengths: Any) -> list[list[int]]:
    ends = [len(ids)] if lengths is None else [int(end) for end in lengths.cumsum()]
    if not ends or ends[-1] != len(ids) or (lengths is not None and lengths.min() < 1):
        raise RequestError("lengths must be positive and add up to the number of input_ids", param="lengths")
    return [ids[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _response(inputs: list[list[int]], result: Vectors | Exception) -> Any:
    if isinstance(result, Exception):
        return engine_error(EngineError("the embedding model failed"))
    counts = int_tensor("prompt_tokens", [len(ids) for ids in inputs])
    return pb_utils.InferenceResponse(output_tensors=[float_tensor("embedding", result), counts])
