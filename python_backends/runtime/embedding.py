"""The `embed` model: Triton requests → embedding workers → Triton responses."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import triton_python_backend_utils as pb_utils

from python_backends.embedding.embedder import Embedder, ScriptedEmbedder, Terms, Vectors, finished
from python_backends.embedding.transformers_embedder import TransformersEmbedder
from python_backends.embedding.worker import EmbeddingWorker, Job
from python_backends.llm.engine import EngineError
from python_backends.messages import EmbeddingOptions
from python_backends.preprocessing.errors import RequestError
from python_backends.preprocessing.tokenizer import TextTokenizer
from python_backends.preprocessing.truncation import Frame, truncated
from python_backends.runtime.errors import engine_error, request_error
from python_backends.runtime.settings import EngineSettings
from python_backends.runtime.tensors import float_tensor, int_tensor, read_array


@dataclass(frozen=True)
class Encoder:
    """One embedding model."""

    tokenizer: TextTokenizer
    frame: Frame
    terms: Terms
    worker: EmbeddingWorker

    @classmethod
    def build(cls, engine: str, model_dir: Path, arguments: Mapping[str, Any]) -> "Encoder":
        tokenizer, embedder = TextTokenizer.from_dir(model_dir), build_embedder(engine, model_dir, arguments)
        return cls(tokenizer, Frame.of(tokenizer), embedder.terms, EmbeddingWorker(embedder))

    def read(self, ids: Any, texts: Any, lengths: Any, options: EmbeddingOptions) -> list[list[int]]:
        """Token ids of each input, from its text, or from `ids` cut by `lengths`. Raises RequestError."""
        if texts is not None and ids is None:
            inputs = self.tokenizer.encode_many([text.decode("utf-8", "replace") for text in texts])
        elif ids is not None and texts is None:
            inputs = _cut(ids.tolist(), lengths)
        else:
            raise RequestError("send text, or input_ids with lengths", param="text")
        inputs = [truncated(one, self.terms.max_tokens, options.truncate, self.frame) for one in inputs]
        self._check(inputs)
        return inputs

    def _check(self, inputs: list[list[int]]) -> None:
        if not inputs:
            raise RequestError("there is nothing to embed: send at least one input", param="text")
        for number, ids in enumerate(inputs):
            if not 0 < len(ids) <= self.terms.max_tokens:
                raise RequestError(
                    f"input {number} has {len(ids)} tokens; between 1 and {self.terms.max_tokens} fit",
                    param="text",
                    code="context_length_exceeded",
                )
            if not 0 <= min(ids) <= max(ids) < self.tokenizer.vocab_size:
                raise RequestError(f"input {number} holds ids that the model does not have", param="input_ids")


def build_embedder(engine: str, model_dir: Path, arguments: Mapping[str, Any]) -> Embedder:
    """The scripted one beside the scripted engine, unless the argument `scripted` says otherwise."""
    scripted = arguments.get("scripted", engine == "scripted")
    return ScriptedEmbedder() if scripted else TransformersEmbedder(model_dir, dict(arguments))


class EmbeddingModel:
    """The model of the settings, and beside it those of the argument `models`: by name, their arguments, of which
    `model` is the directory; what they do not say is as for the first.
    """

    def __init__(self, settings: EngineSettings) -> None:
        usual = {name: value for name, value in settings.arguments.items() if name != "models"}
        self._first = Encoder.build(settings.engine, settings.model_dir, usual)
        self._others = {
            name: Encoder.build(settings.engine, Path(own["model"]), {**usual, **own})
            for name, own in settings.arguments.get("models", {}).items()
        }

    def start(self) -> None:
        for encoder in (self._first, *self._others.values()):
            encoder.worker.start()

    def stop(self) -> None:
        for encoder in (self._first, *self._others.values()):
            encoder.worker.stop()

    def execute(self, request: Any) -> None:
        """Every path sends exactly one response, most of them from a worker's thread."""
        sender = request.get_response_sender()

        def answer(response: Any) -> None:
            sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

        try:
            options = _options(read_array(request, "options"))
            encoder = self._encoder(options.model)
            encoder.terms.check(options)
            ids, texts, lengths = (read_array(request, name) for name in ("input_ids", "text", "lengths"))
            inputs = encoder.read(ids, texts, lengths, options)
        except RequestError as error:
            answer(request_error(error))
            return
        pooling = options.pooling or encoder.terms.pooling
        job = Job(inputs, pooling, lambda result: answer(_response(inputs, result, encoder.terms, options)))
        encoder.worker.submit(job)

    def _encoder(self, name: str | None) -> Encoder:
        """Raises RequestError."""
        if name is None:
            return self._first
        if name not in self._others:
            known = ", ".join(sorted(self._others)) or "none but the usual one, which has no name here"
            raise RequestError(f"there is no embedding model {name!r}; known: {known}", param="model")
        return self._others[name]


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


def _response(inputs: list[list[int]], result: Vectors | Exception, terms: Terms, options: EmbeddingOptions) -> Any:
    if isinstance(result, Exception):
        return engine_error(EngineError("the embedding model failed"))
    counts = int_tensor("prompt_tokens", [len(ids) for ids in inputs])
    vectors = np.ascontiguousarray(finished(result, terms, options))
    return pb_utils.InferenceResponse(output_tensors=[float_tensor("embedding", vectors), counts])
