"""Requests → exact token ids, by the same code that the `preprocess` model runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import msgspec

from gateway.core.call import Call, Model
from gateway.core.job import EmbeddingJob, GenerationJob, Prompt
from gateway.core.requests import request_faults
from gateway.core.settings import Setting
from gateway.errors import InvalidRequest
from gateway.tokens.offload import Offload
from gateway.tokens.prediction import Predictor
from gateway.tokens.recall import token_ids
from python_backends.messages import EmbeddingOptions
from python_backends.preprocessing.prompts import PromptBuilder, completion_budget, embedding_source
from python_backends.preprocessing.schema import EmbeddingRequest, GenerationRequest
from python_backends.preprocessing.tokenizer import TextTokenizer
from python_backends.preprocessing.truncation import Frame, truncated

# More than chat templates write around a message.
TEMPLATE_TOKENS = 64
CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"


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
    cache_bytes: Annotated[
        int,
        msgspec.Meta(ge=0),
        Setting(
            "Token ids kept of texts met before, so that they are not tokenized again; 0: none.",
            env="TOKEN_CACHE_BYTES",
            unit="bytes",
        ),
    ] = 16 * 1024 * 1024
    expected_answer: Annotated[
        int,
        msgspec.Meta(ge=1),
        Setting(
            "What the first answer of a tenant is expected to take, where the client allows as much; later ones are "
            "expected to be like those before.",
            env="EXPECTED_ANSWER_TOKENS",
            unit="tokens",
        ),
    ] = 512


class GenerationTokens:
    """Prompts of chats and completions. `builders`: by model name."""

    def __init__(self, builders: Mapping[str, PromptBuilder], offload: Offload, predictor: Predictor) -> None:
        self._builders = builders
        self._offload = offload
        self._predictor = predictor

    async def fits(self, call: Call, model: Model, body: GenerationRequest) -> bool:
        """Whether prompt and answer fit. No text has more tokens than bytes: only where that leaves a doubt they are
        counted. What else is wrong with a prompt is told later.
        """
        most = call.size + TEMPLATE_TOKENS * (1 + body.pieces) + (body.token_limit or 1)
        if most <= model.max_model_len:
            return True
        try:
            await self._prompts(call, model, body)
        except InvalidRequest as error:
            return error.code != CONTEXT_LENGTH_EXCEEDED
        return True

    async def prepare(self, call: Call, model: Model, body: GenerationRequest) -> GenerationJob:
        """Raises InvalidRequest, with `context_length_exceeded` where prompt and answer do not fit."""
        prompts = await self._prompts(call, model, body)
        self._estimate(call, model, prompts, body.choices)
        return GenerationJob(body, prompts)

    async def _prompts(self, call: Call, model: Model, body: GenerationRequest) -> list[Prompt]:
        with request_faults():
            builder = self._builders[model.base]
            source = partial(builder.source, body)
            lists = await token_ids(self._offload, call.size, body.pieces, source, builder.tokenizer)
            return [Prompt(ids, completion_budget(body.token_limit, len(ids), model.max_model_len)) for ids in lists]

    def _estimate(self, call: Call, model: Model, prompts: list[Prompt], choices: int) -> None:
        """What the call is expected to take: its prompts, exactly, and answers as long as this tenant's mostly are."""
        tenant = call.caller.tenant if call.caller else ""
        answers = sum(self._predictor.expect(tenant, model.name, one.max_tokens) for one in prompts)
        call.answers = choices * len(prompts)
        call.prompt_ids = prompts[0].ids
        call.prompt_cost = sum(len(one.ids) for one in prompts)
        call.cost = call.prompt_cost + choices * answers


class EmbeddingTokens:
    """Inputs of embeddings. `tokenizers`: by model name."""

    def __init__(self, tokenizers: Mapping[str, TextTokenizer], offload: Offload) -> None:
        self._tokenizers = tokenizers
        self._frames = {name: Frame.of(tokenizer) for name, tokenizer in tokenizers.items()}
        self._offload = offload

    async def prepare(self, call: Call, model: Model, body: EmbeddingRequest) -> EmbeddingJob:
        """Raises InvalidRequest. What was left out of a text that is too long does not count."""
        with request_faults():
            source, tokenizer = partial(embedding_source, body), self._tokenizers[model.base]
            inputs = await token_ids(self._offload, call.size, body.pieces, source, tokenizer)
        longest, truncate = model.max_model_len, body.truncate or model.truncate
        for number, ids in enumerate(inputs):
            if len(ids) > longest:
                if truncate == "none":
                    raise _too_long(number, len(ids), model)
                inputs[number] = truncated(ids, longest, truncate, self._frames[model.base])
        call.cost = call.prompt_cost = sum(map(len, inputs))
        return EmbeddingJob(inputs, _options(body, model))


def _options(body: EmbeddingRequest, model: Model) -> EmbeddingOptions:
    """The model itself knows what it can do, and refuses what it cannot."""
    wanted = None if body.dimensions == model.dimensions else body.dimensions
    return EmbeddingOptions(model=model.encoder, pooling=body.pooling, normalize=body.normalize, dimensions=wanted)


def _too_long(number: int, tokens: int, model: Model) -> InvalidRequest:
    return InvalidRequest(
        f"{model.name} takes at most {model.max_model_len} tokens a text, and input {number} has {tokens}: split it, "
        "or say with truncate which part to leave out",
        param="input",
        code="context_length_exceeded",
    )
