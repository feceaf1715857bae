"""The engine port: what the `vllm` model asks of whatever generates tokens."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from python_backends.messages import ErrorBody, FinishReason, Plan, Timings, TokenLogprob

_SERVER_ERROR = 500


class EngineError(Exception):
    """The engine refused or failed one request.

    `code`: a word of docs/api.md; `status`: the HTTP status it means; `param`: the field that the engine refused.
    """

    def __init__(
        self, message: str, *, code: str = "engine_error", status: int = 500, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.status = status
        self.param = param

    @property
    def body(self) -> ErrorBody:
        kind = "invalid_request_error" if self.status < _SERVER_ERROR else "server_error"
        return ErrorBody(message=self.message, type=kind, code=self.code, param=self.param)


class EngineUnavailableError(EngineError):
    """The engine is dead or stopping: nothing that is sent to it will be answered."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="engine_unavailable", status=503)


class AdapterUnavailableError(EngineError):
    """The adapter is missing, damaged or refused by the engine: the fault of this one request only."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="adapter_unavailable", status=503, param="model")


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """`number`: for this content in this process, never given twice. `name`: the same for the same content only."""

    number: int
    name: str
    directory: str


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """`id` is unique among all requests that this process ever saw. `adapter`: loaded already."""

    id: str
    input_ids: Sequence[int]
    plan: Plan
    adapter: LoadedAdapter | None = None


@dataclass(slots=True)
class EngineOutput:
    """What one choice gained since the last output: new token ids and their text, each piece once.

    `finish` is set on the last output of the choice, `last` on the last of the request, with `cached_tokens` and
    `timings`.
    """

    index: int
    token_ids: list[int]
    text: str
    logprobs: list[TokenLogprob] | None = None
    prompt_logprobs: list[TokenLogprob | None] | None = None
    finish: FinishReason | None = None
    last: bool = False
    cached_tokens: int = 0
    timings: Timings | None = None


@dataclass(frozen=True, slots=True)
class ShelfState:
    """Adapters in the engine's memory, by their checksums. `places`: how many fit, 0: the engine serves none.

    `loads` and what follows count since the start; `load_s` is the time that loading took.
    """

    places: int = 0
    loaded: tuple[str, ...] = ()
    pinned: tuple[str, ...] = ()
    loads: int = 0
    load_s: float = 0.0
    evictions: int = 0
    failures: int = 0


@dataclass(frozen=True, slots=True)
class EngineState:
    """`steps` and `tokens` count since the start; `running`, `waiting` and `kv_usage` are of the engine's last step.

    `in_flight` is of this moment: requests that have been submitted and not ended. `preemptions` and what follows
    count since the start: running requests that were paused for more urgent ones, the seconds that they paused, and of
    the tokens whose KV they had, those computed again and those found in the cache.
    """

    engine: str
    version: str
    model: str
    max_model_len: int
    in_flight: int = 0
    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    kv_tokens: int = 0
    steps: int = 0
    tokens: int = 0
    preemptions: int = 0
    paused_s: float = 0.0
    recomputed_tokens: int = 0
    reused_tokens: int = 0
    shelf: ShelfState = ShelfState()


class Engine(Protocol):
    """All methods run on one event loop. Closing the iterator of `generate` ends that request in the engine."""

    async def start(self) -> None: ...

    def generate(self, request: EngineRequest) -> AsyncIterator[EngineOutput]:
        """Stream one request. Raises EngineError."""
        ...

    async def load_adapter(self, adapter: LoadedAdapter) -> None:
        """Into the engine's memory. Raises EngineError; then nothing of it is left there."""
        ...

    async def unload_adapter(self, adapter: LoadedAdapter) -> None:
        """No request uses it."""
        ...

    def state(self) -> EngineState: ...

    async def stop(self) -> None: ...
