"""Calls and entries for tests of what is counted."""

from typing import Any

from gateway.accounting.entries import Entry
from gateway.core.call import Call, Caller, Model, Usage
from gateway.core.limit import TimeLimit

NOON = 1_780_315_200_000  # 2026-06-01T12:00:00Z, Unix milliseconds
DAY_MS = 86_400_000


def new_call(tenant: str = "acme", key_id: str = "key_1", route: str = "/v1/chat/completions", **fields: Any) -> Call:
    """A call of a known caller to the model `tiny`, which has used nothing."""
    given = {
        "id": "r",
        "uid": "u",
        "caller": Caller(key_id, tenant, frozenset({"inference"})),
        "model": Model("tiny", "generate", 256, 0),
        "usage": Usage(),
    }
    return Call(route=route, limit=TimeLimit(60), **(given | fields))


def new_entry(number: int = 0, **fields: Any) -> Entry:
    given = {
        "uid": f"uid-{number}",
        "request_id": f"request-{number}",
        "at": NOON,
        "tenant": "acme",
        "key_id": "key_1",
        "route": "/v1/chat/completions",
        "outcome": "ok",
        "status": 200,
        "model": "tiny",
        "prompt_tokens": 10,
        "cached_tokens": 4,
        "completion_tokens": 5,
        "price": 7,
    }
    return Entry(**(given | fields))
