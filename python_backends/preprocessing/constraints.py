"""What a request says its answer must match."""

from dataclasses import dataclass
from typing import Protocol

import msgspec

from python_backends.messages import Constraint
from python_backends.preprocessing.errors import RequestError
from python_backends.preprocessing.schema import (
    ChatRequest,
    GenerationRequest,
    JsonObjectFormat,
    JsonSchemaFormat,
    StructuredOutputs,
)


@dataclass(frozen=True)
class Wanted:
    """A constraint in the client's own words, and the path of the field that holds it."""

    constraint: Constraint
    param: str


class Grammars(Protocol):
    def check(self, wanted: Constraint, param: str) -> Constraint:
        """`wanted` as the engine gets it. Raises RequestError that names `param`."""
        ...


def wanted_constraint(request: GenerationRequest) -> Wanted | None:
    """None where any text will do. Raises RequestError."""
    form = request.response_format if isinstance(request, ChatRequest) else None
    if isinstance(form, JsonObjectFormat):
        return Wanted(Constraint(json_object=True), "response_format")
    if isinstance(form, JsonSchemaFormat):
        described = form.json_schema
        text = msgspec.json.encode(described.schema).decode()
        constraint = Constraint(json_schema=text, strict=bool(described.strict))
        return Wanted(constraint, "response_format.json_schema.schema")
    return None if request.structured_outputs is None else _structured(request.structured_outputs)


def _structured(given: StructuredOutputs) -> Wanted:
    (name,) = _given_names(given)
    param = f"structured_outputs.{name}"
    if name == "json":
        return Wanted(Constraint(json_schema=_json_text(given, param)), param)
    return Wanted(msgspec.convert({name: getattr(given, name)}, Constraint), param)


def _json_text(given: StructuredOutputs, param: str) -> str:
    if not isinstance(given.json, str):
        return msgspec.json.encode(given.json).decode()
    try:
        msgspec.json.decode(given.json, type=dict)
    except (msgspec.DecodeError, RecursionError) as error:
        raise RequestError(f"{param}: not a JSON object: {error}", param=param, code="invalid_schema") from error
    return given.json


def _given_names(given: StructuredOutputs) -> list[str]:
    return [name for name in given.__struct_fields__ if getattr(given, name) is not None]


def check_combinations(request: GenerationRequest) -> None:
    """What does not go together with a constraint, or does nothing without one. Raises RequestError."""
    given = request.structured_outputs
    if given is not None and len(_given_names(given)) != 1:
        raise RequestError("structured_outputs needs exactly one member", param="structured_outputs")
    wanted = wanted_constraint(request)
    if given is not None and wanted is not None and not wanted.param.startswith("structured_outputs"):
        raise RequestError("response_format and structured_outputs differ: send one of them", param="response_format")
    closes = wanted is not None and (wanted.constraint.json_schema is not None or wanted.constraint.json_object)
    if request.on_length == "close" and not closes:
        raise RequestError("on_length: close is for JSON answers: leave it out", param="on_length")
    if wanted is not None:
        check_ending(request)


def check_ending(request: GenerationRequest) -> None:
    """Nothing but its end may follow an answer that is whole."""
    if request.min_tokens:
        raise RequestError("min_tokens does not go with a required form: leave it out", param="min_tokens")
    if request.ignore_eos:
        raise RequestError("ignore_eos does not go with a required form: leave it out", param="ignore_eos")
    if not isinstance(request, ChatRequest) and request.max_tokens == 0:
        raise RequestError("max_tokens: 0 leaves no room for an answer of a required form", param="max_tokens")
