"""The request bodies that Trireme understands, as the OpenAI API names them.

Unknown fields are refused, ranges are part of the types, and a parameter that OpenAI has and Trireme has not is
refused by name: nothing is dropped silently. Field meanings: docs/api.md.
"""

from typing import Annotated, Any, Literal

import msgspec

from python_backends.messages import Pooling, Truncation

MAX_CHOICES = 128
MAX_STOP_STRINGS = 16
MAX_LOGPROBS = 20
MAX_GIVEN_CHOICES = 1000
MAX_INPUTS = 2048
MAX_INPUT_ITEMS = 1 << 20
MAX_TOOLS = 128

Positive = Annotated[int, msgspec.Meta(ge=1)]
NonNegative = Annotated[int, msgspec.Meta(ge=0)]
TokenId = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Seed = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Choices = Annotated[int, msgspec.Meta(ge=1, le=MAX_CHOICES)]
Temperature = Annotated[float, msgspec.Meta(ge=0, le=2)]
TopP = Annotated[float, msgspec.Meta(gt=0, le=1)]
MinP = Annotated[float, msgspec.Meta(ge=0, le=1)]
TopK = Annotated[int, msgspec.Meta(ge=-1, le=2**31 - 1)]
Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
RepetitionPenalty = Annotated[float, msgspec.Meta(gt=0, le=10)]
Bias = Annotated[float, msgspec.Meta(ge=-100, le=100)]
StopString = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
StopStrings = Annotated[list[StopString], msgspec.Meta(max_length=MAX_STOP_STRINGS)]
Priority = Literal["interactive", "standard", "batch"]
FunctionName = Annotated[str, msgspec.Meta(pattern="^[a-zA-Z0-9_-]{1,64}$")]
Role = Literal["system", "developer", "user", "assistant", "tool"]
# A text, several texts, token ids, or several lists of token ids; never a mixture (parsing checks that).
Inputs = str | Annotated[list[str | TokenId | list[TokenId]], msgspec.Meta(max_length=MAX_INPUT_ITEMS)]


class _Body(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A JSON object whose unknown fields are errors."""


class TextPart(_Body):
    type: Literal["text"]
    text: str


class FunctionCall(_Body):
    """`arguments`: an object as JSON."""

    name: str
    arguments: str


class ToolCall(_Body):
    """`index`: as chunks of a stream have it, for clients that send back what they put together of them."""

    id: str
    function: FunctionCall
    type: Literal["function"] = "function"
    index: int | None = None


class Function(_Body):
    """`parameters`: a JSON schema of the arguments; without one there are none. `strict`: docs/tools.md."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Body):
    type: Literal["function"]
    function: Function


class ChosenFunction(_Body):
    name: FunctionName


class ChosenTool(_Body):
    type: Literal["function"]
    function: ChosenFunction


class Message(_Body):
    role: Role
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    # What clients send back of an answer, though there was nothing in it.
    annotations: Annotated[list[Any], msgspec.Meta(max_length=0)] | None = None
    audio: None = None
    function_call: None = None

    @property
    def text(self) -> str:
        """The content as one string; text parts are joined by newlines."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""


class StreamOptions(_Body):
    include_usage: bool = False


class TextFormat(_Body, tag="text"):
    """`response_format` that asks for nothing."""


class JsonObjectFormat(_Body, tag="json_object"):
    """Any JSON object."""


class JsonSchema(_Body):
    """`name` and `description` change nothing here. `strict`: refuse what cannot be kept, instead of leaving it out."""

    name: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_-]{1,64}$")]
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class JsonSchemaFormat(_Body, tag="json_schema"):
    json_schema: JsonSchema


class StructuredOutputs(_Body):
    """What the answer must match, as vLLM names it; exactly one of them."""

    json: dict[str, Any] | str | None = None
    json_object: Literal[True] | None = None
    regex: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    choice: Annotated[list[str], msgspec.Meta(min_length=1, max_length=MAX_GIVEN_CHOICES)] | None = None
    grammar: Annotated[str, msgspec.Meta(min_length=1)] | None = None


class SamplingFields(_Body):
    """What chat and text completions have in common."""

    model: str | None = None
    n: Choices | None = None
    stop: StopString | StopStrings | None = None
    seed: Seed | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    max_tokens: NonNegative | None = None
    min_tokens: NonNegative | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: RepetitionPenalty | None = None
    logit_bias: dict[str, Bias] | None = None
    ignore_eos: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    priority: Priority | None = None
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None
    structured_outputs: StructuredOutputs | None = None
    on_length: Literal["cut", "close"] | None = None

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def stop_strings(self) -> list[str]:
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else self.stop

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(SamplingFields):
    """`POST /v1/chat/completions`. `messages` may be left out only where token ids come beside the body."""

    messages: Annotated[list[Message], msgspec.Meta(min_length=1)] | None = None
    max_completion_tokens: Positive | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    response_format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None = None
    tools: Annotated[list[Tool], msgspec.Meta(min_length=1, max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["auto", "none", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = None

    @property
    def offered(self) -> list[Tool]:
        """The tools that the model is told of."""
        return [] if self.tool_choice == "none" else self.tools or []

    @property
    def token_limit(self) -> int | None:
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def pieces(self) -> int:
        """Of what the prompt is put together."""
        return len(self.messages or ())


class CompletionRequest(SamplingFields):
    """`POST /v1/completions`. `prompt` may be left out only where token ids come beside the body."""

    prompt: Inputs | None = None
    echo: bool | None = None
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=MAX_LOGPROBS)] | None = None

    @property
    def token_limit(self) -> int | None:
        return self.max_tokens

    @property
    def pieces(self) -> int:
        return _pieces(self.prompt)


class EmbeddingRequest(_Body):
    """`POST /v1/embeddings`."""

    input: Inputs
    model: str | None = None
    dimensions: Positive | None = None
    pooling: Pooling | None = None
    normalize: bool | None = None
    truncate: Truncation | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None
    priority: Priority | None = None

    @property
    def pieces(self) -> int:
        return _pieces(self.input)


GenerationRequest = ChatRequest | CompletionRequest


def _pieces(inputs: Inputs | None) -> int:
    """Texts, lists of token ids, or token ids."""
    return 1 if isinstance(inputs, str) else len(inputs or ())
