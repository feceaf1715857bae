"""The OpenAPI 3.1 description, made from the table of endpoints and the body types."""

import re
from typing import Any

import msgspec

from gateway.api.endpoints import ANY_KEY, DEADLINE_HEADER, Endpoint
from gateway.api.priority import PRIORITY_HEADER
from gateway.api.schema import ErrorResponse
from gateway.cache.idempotency import HEADER
from gateway.core.identity import PRIORITY_CLASSES

_REF = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"\{(\w+)(?::[^}]*)?\}")
_KEY: list[dict[str, list[str]]] = [{"bearer": []}, {"key": []}]
_ID_TYPE = {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"}
_HEADERS = (
    ("x-request-id", "Names the request in the answer and in the log.", _ID_TYPE),
    (DEADLINE_HEADER, "Milliseconds after which nobody waits any more.", {"type": "integer", "minimum": 1}),
    ("traceparent", "W3C trace context.", {"type": "string"}),
)
_REPEATABLE = {
    "name": HEADER,
    "in": "header",
    "description": "The same request with the same key is answered once; its answer can be had again for a while.",
    "schema": {"type": "string", "pattern": "^[ -~]{1,255}$"},
}
_PRIORITY = {
    "name": PRIORITY_HEADER,
    "in": "header",
    "description": "In which class the request waits; no more urgent than its key allows.",
    "schema": {"type": "string", "enum": list(PRIORITY_CLASSES)},
}
_ERRORS = {
    "400": "The request is wrong; `param` says where.",
    "401": "The API key is missing or not valid.",
    "403": "The API key lacks the scope.",
    "404": "There is no such model or address.",
    "408": "No turn came in time.",
    "409": "What is there contradicts the request, or one with this `Idempotency-Key` is being answered.",
    "413": "The body is too large.",
    "415": "The body is not JSON.",
    "422": "This `Idempotency-Key` came with another request.",
    "429": "The server is busy and its queue is full.",
    "500": "The server failed.",
    "502": "The backend failed.",
    "503": "The server cannot serve now.",
    "504": "The deadline passed, or the backend did not answer in time.",
}


# What only requests with an `Idempotency-Key` get.
_REPEATED = frozenset({"409", "422"})


def describe(table: list[Endpoint], version: str) -> bytes:
    """JSON."""
    types = [kind for one in table for kind in (one.takes, one.gives) if kind is not None]
    schemas, components = msgspec.json.schema_components([*types, ErrorResponse], ref_template=_REF)
    schema_of = dict(zip(map(str, [*types, ErrorResponse]), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in table:
        path = _PARAMETER.sub(r"{\1}", endpoint.path)
        paths.setdefault(path, {})[endpoint.method.lower()] = _operation(endpoint, schema_of)
    document = {
        "openapi": "3.1.0",
        "info": {"title": "Trireme", "version": version, "description": "Large language models by the OpenAI API."},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
            "responses": _error_responses(schema_of[str(ErrorResponse)]),
        },
    }
    return msgspec.json.encode(document)


def _operation(endpoint: Endpoint, schema_of: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "operationId": f"{endpoint.handler.__module__.rpartition('.')[2]}_{endpoint.handler.__name__}",
        "parameters": _parameters(endpoint),
        "responses": {str(endpoint.status): _success(endpoint, schema_of), **_failures(endpoint)},
        "security": [] if endpoint.scopes is None else _KEY,
    }
    if endpoint.scopes is not None and endpoint.scopes != ANY_KEY:
        operation["description"] = f"Needs a key with the scope {' or '.join(sorted(endpoint.scopes))}."
    if endpoint.takes is not None:
        operation["requestBody"] = {"required": True, "content": _json(schema_of[str(endpoint.takes)])}
    return operation


def _parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(endpoint.path)
    ]
    found += [{"name": name, "in": "query", "schema": {"type": "string"}} for name in endpoint.query]
    if endpoint.work:
        found += [{"name": name, "in": "header", "description": text, "schema": kind} for name, text, kind in _HEADERS]
    if endpoint.repeatable:
        found += [_REPEATABLE, _PRIORITY]
    return found


def _success(endpoint: Endpoint, schema_of: dict[str, Any]) -> dict[str, Any]:
    content = {"text/plain": {}} if endpoint.gives is None else _json(schema_of[str(endpoint.gives)])
    if endpoint.streams:
        content["text/event-stream"] = {"schema": {"type": "string", "description": "Chunks, then `data: [DONE]`"}}
    return {"description": "Success", "content": content}


def _failures(endpoint: Endpoint) -> dict[str, Any]:
    return {status: {"$ref": f"#/components/responses/{status}"} for status in _statuses(endpoint)}


def _statuses(endpoint: Endpoint) -> list[str]:
    if endpoint.path.startswith("/admin/"):
        body = ["400", "413", "415"] if endpoint.takes is not None or endpoint.query else []
        return sorted([*body, "401", "403", "404", "409", "500", "503"])
    if endpoint.takes is not None:
        return [status for status in _ERRORS if endpoint.repeatable or status not in _REPEATED]
    return ["401", "403", "404", "500", "503"] if endpoint.scopes is not None else ["500", "503"]


def _error_responses(schema: dict[str, Any]) -> dict[str, Any]:
    return {status: {"description": text, "content": _json(schema)} for status, text in _ERRORS.items()}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
