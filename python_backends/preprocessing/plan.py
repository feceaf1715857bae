"""A request → token ids and the plan that tells the engine what to do with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from python_backends.adapters.directory import AdapterError, check_path
from python_backends.grammar.compiler import Compiler
from python_backends.messages import Adapter, Plan, Postprocessing, Sampling, Script
from python_backends.preprocessing.constraints import Grammars
from python_backends.preprocessing.errors import RequestError
from python_backends.preprocessing.expectation import expect
from python_backends.preprocessing.parsing import parse_generation
from python_backends.preprocessing.prompts import PromptBuilder, completion_budget
from python_backends.preprocessing.schema import ChatRequest, GenerationRequest

DEFAULT_PRIORITY = 1
_LEVELS = {"interactive": 0, "standard": 1, "batch": 2}
_SCRIPT_PREFIX = "script_"


@dataclass(frozen=True)
class Planned:
    input_ids: list[int]
    plan: Plan


class Planner:
    """Plans for one model. `max_model_len`: tokens of prompt and answer together.

    `grammars`: who compiles what answers must match; None compiles it here, where nothing bounds that.
    """

    def __init__(self, prompts: PromptBuilder, max_model_len: int, grammars: Grammars | None = None) -> None:
        self._prompts = prompts
        self._max_model_len = max_model_len
        self._grammars = grammars or Compiler()

    def plan(self, body: bytes, input_ids: Sequence[int] | None, parameters: Mapping[str, Any]) -> Planned:
        """Check `body` (JSON) and plan it; `input_ids`, when given, are the prompt. Raises RequestError."""
        request = parse_generation(body, pretokenized=input_ids is not None)
        ids = self._prompt(request) if input_ids is None else list(input_ids)
        if not ids:
            raise RequestError("input_ids is empty: send at least one token", param="input_ids")
        budget = completion_budget(request.token_limit, len(ids), self._max_model_len)
        return Planned(input_ids=ids, plan=self._plan(request, ids, budget, parameters))

    def _prompt(self, request: GenerationRequest) -> list[int]:
        prompts = self._prompts.build(request)
        if len(prompts) != 1:
            raise RequestError("one prompt a Triton request: send the others on their own", param="prompt")
        return prompts[0]

    def _plan(self, request: GenerationRequest, ids: list[int], budget: int, parameters: Mapping[str, Any]) -> Plan:
        dialect = self._prompts.dialect
        expected = expect(request, dialect, self._prompts.reasoning(request, ids), self._grammars)
        return Plan(
            sampling=_sampling(request, budget, shown=expected.marked and bool(dialect.special)),
            adapter=_adapter(parameters),
            post=msgspec.structs.replace(
                self._post(request, ids),
                grammar=expected.verified,
                close=request.on_length == "close",
                calling=expected.calling,
                reasoning=expected.reasoning,
            ),
            constraint=expected.constraint,
            priority=_integer(parameters, "priority", _level(request.priority)),
            deadline_ms=_integer(parameters, "deadline_ms", None),
            traceparent=_text(parameters, "traceparent"),
            scripted=_script({**(request.metadata or {}), **parameters}),
        )

    def _post(self, request: GenerationRequest, ids: list[int]) -> Postprocessing:
        stops = request.stop_strings
        least = request.min_tokens or 0
        if isinstance(request, ChatRequest):
            return Postprocessing(
                kind="chat",
                stop=stops,
                min_tokens=least,
                logprobs=bool(request.logprobs),
                top_logprobs=request.top_logprobs or 0,
            )
        return Postprocessing(
            kind="completion",
            stop=stops,
            min_tokens=least,
            logprobs=request.logprobs is not None,
            top_logprobs=request.logprobs or 0,
            echo=self._text(ids) if request.echo else None,
            echo_first=self._text(ids[:1]) if request.echo else "",
            echo_only=request.max_tokens == 0,
        )

    def _text(self, ids: list[int]) -> str:
        return self._prompts.tokenizer.decode(ids, skip_special_tokens=False)


def _level(priority: str | None) -> int:
    return DEFAULT_PRIORITY if priority is None else _LEVELS[priority]


def _sampling(request: GenerationRequest, budget: int, *, shown: bool) -> Sampling:
    """OpenAI's defaults where the request is silent. An echo without an answer still takes one engine step.

    `shown`: special tokens are part of the text.
    """
    given = {name: value for name in _SAME_NAME if (value := getattr(request, name)) is not None}
    logprobs = _wanted_logprobs(request)
    echoes = not isinstance(request, ChatRequest) and bool(request.echo)
    return Sampling(
        max_tokens=max(budget, 1),
        stop=request.stop_strings,
        logit_bias={int(token): bias for token, bias in (request.logit_bias or {}).items()} or None,
        logprobs=logprobs,
        prompt_logprobs=logprobs if echoes else None,
        skip_special_tokens=not shown,
        **given,
    )


_SAME_NAME = (
    "n",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "min_tokens",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "ignore_eos",
)


def _wanted_logprobs(request: GenerationRequest) -> int | None:
    if isinstance(request, ChatRequest):
        return (request.top_logprobs or 0) if request.logprobs else None
    return request.logprobs


def _script(parameters: Mapping[str, Any]) -> Script | None:
    """Orders come as request parameters, or through the gateway as the body's `metadata`, whose values are texts."""
    orders = {name.removeprefix(_SCRIPT_PREFIX): v for name, v in parameters.items() if name.startswith(_SCRIPT_PREFIX)}
    if not orders:
        return None
    try:
        return msgspec.convert(orders, Script, strict=False)
    except msgspec.ValidationError as error:
        raise RequestError(f"script_…: {error}", param="parameters", code="invalid_parameter") from error


def _adapter(parameters: Mapping[str, Any]) -> Adapter | None:
    """Named by its directory below the adapters' root, whoever asks."""
    path = _text(parameters, "adapter")
    if path is None:
        return None
    try:
        check_path(path)
    except AdapterError as error:
        raise RequestError(f"adapter: {error}", param="adapter") from error
    return Adapter(path=path, checksum=_text(parameters, "adapter_checksum"))


def _integer(parameters: Mapping[str, Any], name: str, default: int | None) -> Any:
    value = parameters.get(name, default)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise RequestError(f"the request parameter {name} must be an integer", param=name, code="invalid_type")
    return value


def _text(parameters: Mapping[str, Any], name: str) -> str | None:
    value = parameters.get(name)
    if value is not None and not isinstance(value, str):
        raise RequestError(f"the request parameter {name} must be a string", param=name, code="invalid_type")
    return value
