"""Requests → exact token ids, by the same code that the `preprocess` model runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec

from gateway.core.call import Call, Model
from gateway.core.job import EmbeddingJob, GenerationJob, Prompt
from gateway.core.requests import request_faults
from gateway.core.settings import Setting
from gateway.errors import InvalidRequest
from gateway.tokens.offload import Offload
from python_backends.preprocessing.prompts import PromptBuilder, completion_budget, embedding_inputs
from python_backends.preprocessing.schema import EmbeddingRequest, GenerationRequest
from python_backends.preprocessing.tokenizer import TextTokenizer


@dataclass(frozen=True, kw_only=True)
class TokenSettings:
    threads: Annotated[
        int, msgspec.Meta(ge=1), Setting("Threads that tokenize long texts.", env="TOKENIZER_THREADS")
    ] = 2
    thread_bytes: Annotated[
        int,
        msgspec.Meta(ge=0),
        Setting("Bodies from this size on are tokenized in a thread.", env="TOKENIZER_THREAD_BYTES", unit="bytes"),
    ] = 4096
    expected_answer: Annotated[
        int,
        msgspec.Meta(ge=1),
        Setting(
            "What an answer is expected to take when the client allows more; admission reserves no more than that.",
            env="EXPECTED_ANSWER_TOKENS",
            unit="tokens",
        ),
    ] = 512


class GenerationTokens:
    """Prompts of chats and completions. `builders`: by model name."""

    def __init__(self, builders: Mapping[str, PromptBuilder], offload: Offload, settings: TokenSettings) -> None:
        self._builders = builders
        self._offload = offload
        self._settings = settings

    async def prepare(self, call: Call, model: Model, body: GenerationRequest) -> GenerationJob:
        """Raises InvalidRequest, with `context_length_exceeded` where prompt and answer do not fit."""
        with request_faults():
            lists = await self._offload.run(call.size, self._builders[model.name].build, body)
            prompts = [Prompt(ids, completion_budget(body.token_limit, len(ids), model.max_model_len)) for ids in lists]
        expected = self._settings.expected_answer
        call.cost = sum(len(one.ids) + body.choices * min(one.max_tokens, expected) for one in prompts)
        return GenerationJob(body, prompts)


class EmbeddingTokens:
    """Inputs of embeddings. `tokenizers`: by model name."""

    def __init__(self, tokenizers: Mapping[str, TextTokenizer], offload: Offload) -> None:
        self._tokenizers = tokenizers
        self._offload = offload

    async def prepare(self, call: Call, model: Model, body: EmbeddingRequest) -> EmbeddingJob:
        """Raises InvalidRequest."""
        _check_dimensions(body.dimensions, model)
        with request_faults():
            inputs = await self._offload.run(call.size, embedding_inputs, body, self._tokenizers[model.name])
        for number, ids in enumerate(inputs):
            if len(ids) > model.max_model_len:
                raise _too_long(number, len(ids), model)
        call.cost = sum(map(len, inputs))
        return EmbeddingJob(inputs)


def _check_dimensions(wanted: int | None, model: Model) -> None:
    if wanted is not None and model.dimensions is not None and wanted > model.dimensions:
        raise InvalidRequest(
            f"{model.name} has {model.dimensions} dimensions; {wanted} were asked for", param="dimensions"
        )


def _too_long(number: int, tokens: int, model: Model) -> InvalidRequest:
    return InvalidRequest(
        f"{model.name} takes at most {model.max_model_len} tokens a text, and input {number} has {tokens}: split it",
        param="input",
        code="context_length_exceeded",
    )
