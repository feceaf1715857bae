"""JSON bytes → a checked request, or a RequestError that names the field and the remedy."""

import re
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from python_backends.preprocessing.constraints import check_combinations
from python_backends.preprocessing.errors import RequestError
from python_backends.preprocessing.schema import (
    MAX_INPUTS,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    GenerationRequest,
    Inputs,
)
from python_backends.preprocessing.tools import check_tool_messages, check_tools, told_tools

# Parameters of the OpenAI API that Trireme knows of and does not serve (yet): named, so that the message can say so.
UNSUPPORTED = frozenset(
    {
        "audio",
        "best_of",
        "function_call",
        "functions",
        "modalities",
        "moderation",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "reasoning_effort",
        "safety_identifier",
        "service_tier",
        "suffix",
        "verbosity",
        "web_search_options",
    }
)

_AT = re.compile(r" - at `(?P<path>[^`]*)`$")
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<field>[^`]*)`")
_MISSING = re.compile(r"^Object missing required field `(?P<field>[^`]*)`")

Body = TypeVar("Body", bound=msgspec.Struct)


def parse_chat(body: bytes | str, *, pretokenized: bool = False) -> ChatRequest:
    """Check a chat body. `pretokenized`: token ids come beside it, so that `messages` may be absent.

    Raises RequestError.
    """
    return _check_chat(decode_body(_CHAT, body, ChatRequest), pretokenized)


def parse_completion(body: bytes | str, *, pretokenized: bool = False) -> CompletionRequest:
    """Check a text completion body; `pretokenized` as in `parse_chat`. Raises RequestError."""
    return _check_completion(decode_body(_COMPLETION, body, CompletionRequest), pretokenized)


def parse_embedding(body: bytes | str) -> EmbeddingRequest:
    """Check an embedding body. Raises RequestError."""
    request = decode_body(_EMBEDDING, body, EmbeddingRequest)
    _check_inputs(request.input, "input")
    return request


def parse_generation(body: bytes | str, *, pretokenized: bool) -> GenerationRequest:
    """Check a body that may be either kind, told apart as a direct Triton client writes it: `prompt` or `messages`.

    A pretokenized body has neither and says which it is in the field `kind` ("chat" unless said otherwise); the
    gateway writes that with `encode_pretokenized`. Raises RequestError.
    """
    kind = _peek(body)
    if kind.kind == "completion" or (kind.kind is None and kind.prompt is not msgspec.UNSET):
        return parse_completion(_without_kind(body, kind), pretokenized=pretokenized)
    return parse_chat(_without_kind(body, kind), pretokenized=pretokenized)


def encode_pretokenized(request: GenerationRequest) -> bytes:
    """The body that goes to Triton beside the token ids: the checked request without its text."""
    fields: dict[str, Any] = msgspec.to_builtins(request)
    fields.pop("messages", None)
    fields.pop("prompt", None)
    if isinstance(request, ChatRequest) and request.tools:
        fields |= told_tools(request)
    fields["kind"] = "chat" if isinstance(request, ChatRequest) else "completion"
    return msgspec.json.encode(fields)


class _Kind(msgspec.Struct):
    kind: str | None = None
    prompt: Any = msgspec.UNSET


_CHAT = msgspec.json.Decoder(ChatRequest)
_COMPLETION = msgspec.json.Decoder(CompletionRequest)
_EMBEDDING = msgspec.json.Decoder(EmbeddingRequest)
_KIND = msgspec.json.Decoder(_Kind)


def _peek(body: bytes | str) -> _Kind:
    try:
        return _KIND.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _invalid_json(error) from error


def _without_kind(body: bytes | str, kind: _Kind) -> bytes | str:
    if kind.kind is None:
        return body
    fields = msgspec.json.decode(body)
    del fields["kind"]
    return msgspec.json.encode(fields)


def decode_body(decoder: msgspec.json.Decoder[Body], body: bytes | str, kind: type[Body]) -> Body:
    """A body of any shape; `decoder` is for `kind`. Raises RequestError, in the words that chats get."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _explain(str(error), kind) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _invalid_json(error) from error


def _invalid_json(error: Exception) -> RequestError:
    return RequestError(f"the body is not valid JSON: {error}", code="invalid_json")


def _explain(problem: str, kind: type[msgspec.Struct]) -> RequestError:
    """Turn msgspec's sentence into ours, with the field's path in `param`."""
    where = _AT.search(problem)
    path = where["path"].removeprefix("$").removeprefix(".") if where else ""
    sentence = problem[: where.start()] if where else problem
    if found := _UNKNOWN.match(sentence):
        return _unknown_field(found["field"], path, kind)
    if found := _MISSING.match(sentence):
        param = _join(path, found["field"])
        return RequestError(f"{param} is required", param=param, code="missing_required_parameter")
    if not path:
        return RequestError(f"the body must be a JSON object: {sentence}", code="invalid_type")
    if sentence.startswith(("Invalid enum value", "Invalid value")) and (known := _choices(kind, path)):
        sentence = f"{sentence}; known: {', '.join(known)}"
    code = "invalid_type" if ", got `" in sentence else "invalid_value"
    return RequestError(f"{path}: {sentence[0].lower()}{sentence[1:]}", param=path, code=code)


def _choices(kind: type[msgspec.Struct], path: str) -> list[str]:
    """What may stand at `path` where one of several words must."""
    hints: list[Any] = [kind]
    for name in filter(str.isidentifier, re.split(r"[.\[\]]+", path)):
        structs = [one for one in hints if isinstance(one, type) and issubclass(one, msgspec.Struct)]
        found = [get_type_hints(one)[name] for one in structs if name in one.__struct_fields__]
        hints = [part for hint in found for part in _parts(hint)]
    return [str(word) for hint in hints if get_origin(hint) is Literal for word in get_args(hint)]


def _parts(hint: Any) -> list[Any]:
    """The types that a type is made of: of unions, lists and optional ones, their members."""
    if get_origin(hint) is Literal or not get_args(hint):
        return [hint]
    return [part for argument in get_args(hint) for part in _parts(argument)]


def _unknown_field(field: str, path: str, kind: type[msgspec.Struct]) -> RequestError:
    param = _join(path, field)
    if not path and field in UNSUPPORTED:
        return RequestError(
            f"{param} is not supported by this server: leave it out", param=param, code="unsupported_parameter"
        )
    known = "" if path else f"; known fields: {', '.join(sorted(get_type_hints(kind)))}"
    return RequestError(f"unknown field {param}: remove it{known}", param=param, code="unknown_parameter")


def _join(path: str, field: str) -> str:
    return f"{path}.{field}" if path else field


def _check_chat(request: ChatRequest, pretokenized: bool) -> ChatRequest:
    check_tools(request)
    if request.messages is None and not pretokenized:
        raise RequestError("messages is required", param="messages", code="missing_required_parameter")
    check_tool_messages(request.messages or ())
    for number, message in enumerate(request.messages or ()):
        if message.content is None and not message.tool_calls:
            raise RequestError(
                f"messages[{number}].content is required", param=f"messages[{number}].content", code="invalid_value"
            )
    if request.top_logprobs is not None and not request.logprobs:
        raise RequestError("top_logprobs needs logprobs: true", param="top_logprobs")
    both = request.max_tokens is not None and request.max_completion_tokens is not None
    if both and request.max_tokens != request.max_completion_tokens:
        raise RequestError("max_tokens and max_completion_tokens differ: send one of them", param="max_tokens")
    if request.max_tokens == 0:
        raise RequestError("max_tokens must be at least 1", param="max_tokens")
    _check_sampling(request)
    return request


def _check_completion(request: CompletionRequest, pretokenized: bool) -> CompletionRequest:
    if request.prompt is None and not pretokenized:
        raise RequestError("prompt is required", param="prompt", code="missing_required_parameter")
    if request.prompt is not None:
        _check_inputs(request.prompt, "prompt")
    if request.max_tokens == 0 and not request.echo:
        raise RequestError("max_tokens must be at least 1 unless echo is true", param="max_tokens")
    _check_sampling(request)
    return request


def _check_inputs(inputs: Inputs, param: str) -> None:
    if isinstance(inputs, str):
        return
    if not inputs:
        raise RequestError(f"{param} is empty: send at least one text", param=param)
    kinds = {type(one) for one in inputs}
    if len(kinds) > 1:
        raise RequestError(f"{param} mixes texts and token ids: send one kind", param=param, code="invalid_type")
    if kinds != {int} and len(inputs) > MAX_INPUTS:
        raise RequestError(f"{param} has {len(inputs)} entries; at most {MAX_INPUTS} are allowed", param=param)


def _check_sampling(request: GenerationRequest) -> None:
    limit = request.token_limit
    if limit and (request.min_tokens or 0) > limit:
        raise RequestError(f"min_tokens is {request.min_tokens}, more than the {limit} allowed", param="min_tokens")
    if request.stream_options is not None and not request.stream:
        raise RequestError("stream_options needs stream: true", param="stream_options")
    check_combinations(request)
    for token in request.logit_bias or ():
        if not (token.isascii() and token.isdigit()):
            raise RequestError(f"logit_bias: {token!r} is not a token id", param="logit_bias")
