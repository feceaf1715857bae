"""Bodies that the gateway answers with, and those of requests that no Triton model shares."""

from typing import Literal

import msgspec

from gateway.core.call import Usage

Vector = list[float] | str


class ErrorObject(msgspec.Struct):
    message: str
    type: str
    param: str | None
    code: str


class ErrorResponse(msgspec.Struct):
    """Every error has all four members."""

    error: ErrorObject


class PromptTokensDetails(msgspec.Struct):
    cached_tokens: int


class UsageBody(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails

    @classmethod
    def of(cls, usage: Usage) -> "UsageBody":
        total = usage.prompt + usage.completion
        return cls(usage.prompt, usage.completion, total, PromptTokensDetails(usage.cached))


class CalledFunction(msgspec.Struct):
    """`arguments`: JSON."""

    name: str
    arguments: str


class ToolCallBody(msgspec.Struct):
    id: str
    type: Literal["function"]
    function: CalledFunction


class ChatMessage(msgspec.Struct):
    """`content` is null where the answer is tool calls alone; `reasoning_content`: what the model thought."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None = None
    tool_calls: list[ToolCallBody] | msgspec.UnsetType = msgspec.UNSET
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET


Logprobs = dict[str, list[msgspec.Raw] | None]


class ChatChoice(msgspec.Struct):
    index: int
    message: ChatMessage
    logprobs: Logprobs | None
    finish_reason: str | None


class ChatCompletion(msgspec.Struct):
    """`POST /v1/chat/completions` without `stream`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageBody


class TextChoice(msgspec.Struct):
    index: int
    text: str
    logprobs: Logprobs | None
    finish_reason: str | None


class TextCompletion(msgspec.Struct):
    """`POST /v1/completions` without `stream`."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: UsageBody


class EmbeddingUsage(msgspec.Struct):
    prompt_tokens: int
    total_tokens: int


class EmbeddingObject(msgspec.Struct):
    """`embedding` is a list of numbers, or base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: Vector


class EmbeddingList(msgspec.Struct):
    object: Literal["list"]
    data: list[EmbeddingObject]
    model: str
    usage: EmbeddingUsage


class RerankDocument(msgspec.Struct):
    text: str


class RerankResult(msgspec.Struct, omit_defaults=True):
    """`index`: of the document as it was sent; `relevance_score`: cosine with the query."""

    index: int
    relevance_score: float
    document: RerankDocument | None = None


class RerankUsage(msgspec.Struct):
    prompt_tokens: int
    total_tokens: int


class RerankList(msgspec.Struct):
    """`results`: the most alike first."""

    id: str
    model: str
    results: list[RerankResult]
    usage: RerankUsage


class ModelObject(msgspec.Struct):
    """`versions`: those that can be asked for as `id@version`.

    `parent`: the model that this adapter belongs to, null for a model of its own; `root`: where it lies.
    """

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int
    root: str
    parent: str | None
    versions: list[str] = []


class ModelList(msgspec.Struct):
    object: Literal["list"]
    data: list[ModelObject]


class DetokenizeRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /detokenize`."""

    tokens: list[int]
    model: str | None = None


class Tokenized(msgspec.Struct):
    count: int
    max_model_len: int
    tokens: list[int]


class Detokenized(msgspec.Struct):
    prompt: str


class Liveness(msgspec.Struct):
    status: Literal["live"]


class Readiness(msgspec.Struct):
    """`checks`: "ok", or what is wrong."""

    status: Literal["ready", "unready"]
    checks: dict[str, str]
