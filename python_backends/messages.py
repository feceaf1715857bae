"""What crosses a process boundary between the Triton models, as JSON in BYTES tensors.

    preprocess ── Plan ──▶ vllm ── Event ──▶ postprocess ── Delta ──▶ gateway, or a direct Triton client

Ensembles allow no tensor to skip the decoupled step (it would join two streams), so everything that `postprocess`
needs of the plan rides on the first event of a stream.
"""

from typing import Literal

import msgspec

FinishReason = Literal["stop", "length", "abort", "error"]
Kind = Literal["chat", "completion"]
# Of an answer that must match a grammar: it does, was cut by `max_tokens` or a stop string, was cut and then closed
# like JSON, or broke it and was ended by an error, whose code is VIOLATION.
GrammarOutcome = Literal["valid", "truncated", "closed", "violated"]
VIOLATION = "grammar_violation"
# How a model writes tool calls: python_backends/preprocessing/tool_format.py says how each looks.
ToolFormat = Literal["hermes", "llama3_json", "mistral", "pythonic", "json"]


class _Wire(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A message; defaults are left out on the wire, unknown members are ignored by older readers."""


class Sampling(_Wire, frozen=True):
    """How to pick tokens. Names and meanings are vLLM's SamplingParams'."""

    max_tokens: int
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    min_tokens: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] | None = None
    ignore_eos: bool = False
    stop: list[str] = []
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    skip_special_tokens: bool = True


class Constraint(_Wire, frozen=True):
    """What the answer must match; exactly one member is set beside `strict`.

    `strict`: of a schema that has not been compiled yet: refuse what cannot be kept, instead of leaving it out.
    """

    strict: bool = True
    json_schema: str | None = None
    json_object: bool = False
    regex: str | None = None
    grammar: str | None = None
    choice: list[str] | None = None


class Adapter(_Wire, frozen=True):
    """A LoRA adapter: `path` is its directory below the adapters' root. `checksum`: what must lie there, if known."""

    path: str
    checksum: str | None = None


class Calling(_Wire, frozen=True):
    """The tools that the answer may call, by name, and how calls are written; not `parallel`: at most one call."""

    format: ToolFormat
    names: list[str]
    parallel: bool = True


class Reasoning(_Wire, frozen=True):
    """What stands around a model's thoughts; `open`: the prompt ends with `begin`."""

    begin: str
    end: str
    open: bool = False


class Postprocessing(_Wire, frozen=True):
    """What `postprocess` must know of the request.

    `echo`: the prompt's text, to stand before each choice, and `echo_first` that of its first token; with `echo_only`
    nothing follows it. Stop strings count from the token after `min_tokens`, as in the engine. `grammar`: what each
    choice is checked against while it comes; `close`: end JSON that was cut by `max_tokens`.
    """

    kind: Kind = "chat"
    stop: list[str] = []
    min_tokens: int = 0
    logprobs: bool = False
    top_logprobs: int = 0
    echo: str | None = None
    echo_first: str = ""
    echo_only: bool = False
    grammar: Constraint | None = None
    close: bool = False
    calling: Calling | None = None
    reasoning: Reasoning | None = None


class Script(_Wire, frozen=True):
    """Orders to the scripted engine, from the request parameters or `metadata` named `script_…`.

    Delays are before each token, and before the first; `…_at` is the number of the token (from 0) in whose place the
    engine raises an error, stays silent for ever, or ends its process. After the answer nobody gets a token for
    `stall_ms`. `text` is answered in place of the usual words, a few characters a token.
    """

    delay_ms: float = 0.0
    first_delay_ms: float = 0.0
    fail_at: int | None = None
    hang_at: int | None = None
    crash_at: int | None = None
    stall_ms: float = 0.0
    text: str | None = None


class Plan(_Wire, frozen=True):
    """All the engine must know of a request but its token ids.

    `priority`: 0 is the most urgent. `deadline_ms`: milliseconds from the arrival at Triton until nobody waits any
    more. `traceparent`: W3C trace context. `scripted`: orders to the scripted engine, ignored by others.
    """

    sampling: Sampling
    post: Postprocessing = Postprocessing()
    constraint: Constraint | None = None
    adapter: Adapter | None = None
    priority: int = 0
    deadline_ms: int | None = None
    traceparent: str | None = None
    scripted: Script | None = None


Pooling = Literal["mean", "last", "cls"]
Truncation = Literal["none", "start", "end"]


class EmbeddingOptions(_Wire, frozen=True):
    """Beside the texts for `embed`; what is left out is as the model has it.

    `model`: one of several in the same process, by name. `dimensions`: the first so many. `normalize`: to length 1.
    `truncate`: which end of a text that is too long is left out; with `none` it is refused.
    """

    model: str | None = None
    pooling: Pooling | None = None
    normalize: bool | None = None
    dimensions: int | None = None
    truncate: Truncation = "none"


class Judgement(_Wire, frozen=True):
    """How hard a text is, by which scorer, and why.

    `score`: 0 to 1, the chance that the weaker of the two models the scorer was trained with answers wrongly.
    `parts`: what moved it most from that of an average text, in logits: `meaning` is the embedding's part, the others
    are features' names.
    """

    scorer: str
    score: float
    parts: dict[str, float] = {}


class Control(_Wire, frozen=True):
    """A request to the engine itself instead of a generation: the `plan` tensor holds this, `input_ids` is absent.

    `ids`: of requests to abort. `adapter`: the one to load or to pin; one to unload or to unpin goes by its `checksum`.
    """

    control: Literal["abort", "stats", "adapters", "load", "unload", "pin", "unpin"]
    ids: list[str] = []
    adapter: Adapter | None = None
    checksum: str | None = None


class TopLogprob(_Wire, frozen=True):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(_Wire, frozen=True):
    """The chosen token and the likeliest ones beside it, in OpenAI's shape; natural logarithms."""

    token: str
    logprob: float
    bytes: list[int]
    top: list[TopLogprob] = []


class Tokens(_Wire, frozen=True):
    """Exact counts of one Triton request; `completion` is the sum over its choices."""

    prompt: int
    completion: int
    cached: int = 0


class Timings(_Wire, frozen=True):
    """Where the engine spent the time, in milliseconds, and how often the request was preempted."""

    queued: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0
    preemptions: int = 0


class ErrorBody(_Wire, frozen=True):
    """The message of every Triton error that our models raise, as JSON: OpenAI's error object.

    Triton prefixes it within ensembles (`in ensemble 'chat', {…}`).
    """

    message: str
    type: str
    code: str
    param: str | None = None


class Event(_Wire, frozen=True):
    """Rides beside `token_ids` and `text` of one engine response.

    `stream` is unique within the engine process. `post` comes on the first event of a stream, `finish` on the last of
    each choice, `usage` and `timings` on the last of all. `prompt_logprobs[0]` is None (nothing precedes it).
    `error` ends a stream that had begun: an ensemble answers an error of its engine step at once, ahead of the tokens
    that `postprocess` still has to write, so that it must come through there.
    """

    stream: int
    index: int = 0
    post: Postprocessing | None = None
    logprobs: list[TokenLogprob] | None = None
    prompt_logprobs: list[TokenLogprob | None] | None = None
    finish: FinishReason | None = None
    usage: Tokens | None = None
    timings: Timings | None = None
    error: ErrorBody | None = None


class Delta(_Wire, frozen=True):
    """One output of the `chat` ensemble.

    `choice` is one element of an OpenAI chunk's `choices`, ready to be sent. `tokens` says how many engine tokens it
    stands for (folded together under load). `usage` and `timings` mark the last delta of the request. `grammar` comes
    with the end of a choice that must match one.
    """

    choice: msgspec.Raw
    tokens: int = 0
    usage: Tokens | None = None
    timings: Timings | None = None
    grammar: GrammarOutcome | None = None
