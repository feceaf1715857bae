"""Every address of the gateway: what it takes, what it gives, and which keys may use it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from gateway.api import chat, completions, embeddings, models, operations, tokenization
from gateway.api.keys import AUTHENTICATOR, CALL, GATE, HTTP
from gateway.api.schema import (
    ChatCompletion,
    Detokenized,
    DetokenizeRequest,
    EmbeddingList,
    Liveness,
    ModelList,
    ModelObject,
    Readiness,
    TextCompletion,
    Tokenized,
)
from gateway.core.limit import TimeLimit
from gateway.errors import InvalidRequest, ShuttingDown
from python_backends.preprocessing.schema import ChatRequest, CompletionRequest, EmbeddingRequest

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
DEADLINE_HEADER = "x-deadline-ms"
ANY_KEY: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Endpoint:
    """`scopes`: the key needs one of them (none named: any key), None: no key at all.

    `takes`, `gives`: body types, None for what is not JSON. `work`: refused while shutting down.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    scopes: frozenset[str] | None
    takes: Any = None
    gives: Any = None
    streams: bool = False
    work: bool = True


def endpoints(*, metrics_key: bool) -> list[Endpoint]:
    inference = frozenset({"inference"})
    either = frozenset({"inference", "embeddings"})
    return [
        Endpoint(
            "POST", "/v1/chat/completions", chat.create, "Answer a conversation", inference,
            takes=ChatRequest, gives=ChatCompletion, streams=True,
        ),
        Endpoint(
            "POST", "/v1/completions", completions.create, "Continue texts", inference,
            takes=CompletionRequest, gives=TextCompletion, streams=True,
        ),
        Endpoint(
            "POST", "/v1/embeddings", embeddings.create, "Turn texts into vectors", frozenset({"embeddings"}),
            takes=EmbeddingRequest, gives=EmbeddingList,
        ),
        Endpoint("GET", "/v1/models", models.index, "List the models", ANY_KEY, gives=ModelList),
        Endpoint("GET", "/v1/models/{model:.+}", models.show, "One model", ANY_KEY, gives=ModelObject),
        Endpoint(
            "POST", "/tokenize", tokenization.tokenize, "Count and show a text's tokens", either,
            takes=tokenization.TokenizeRequest, gives=Tokenized,
        ),
        Endpoint(
            "POST", "/detokenize", tokenization.detokenize, "Turn tokens back into text", either,
            takes=DetokenizeRequest, gives=Detokenized,
        ),
        Endpoint("GET", "/health/live", operations.live, "Does the process run?", None, gives=Liveness, work=False),
        Endpoint("GET", "/health/ready", operations.ready, "Can it serve?", None, gives=Readiness, work=False),
        Endpoint(
            "GET", "/metrics", operations.metrics, "Prometheus metrics",
            frozenset({"metrics"}) if metrics_key else None, work=False,
        ),
        Endpoint("GET", "/openapi.json", operations.openapi, "This page", None, gives=dict[str, Any], work=False),
    ]  # fmt: skip


def add_endpoints(app: web.Application, table: list[Endpoint]) -> None:
    for endpoint in table:
        add = app.router.add_get if endpoint.method == "GET" else app.router.add_post
        add(endpoint.path, _guarded(endpoint))


def _guarded(endpoint: Endpoint) -> Handler:
    """First of all: may this caller be here, and how long may it take?"""
    scopes = endpoint.scopes

    async def handle(request: web.Request) -> web.StreamResponse:
        call = request[CALL]
        if endpoint.work and request.app[GATE].closed:
            raise ShuttingDown("the server is shutting down: try again", retry_after=1.0)
        if scopes is not None:
            call.caller = await request.app[AUTHENTICATOR].authenticate(_secret(request), scopes)
            call.mark("auth")
        if DEADLINE_HEADER in request.headers:
            call.limit = TimeLimit(_deadline(request.headers[DEADLINE_HEADER], request.app[HTTP].max_deadline_s))
        return await endpoint.handler(request)

    return handle


def _secret(request: web.Request) -> str | None:
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return secret.strip()
    return request.headers.get("x-api-key")


def _deadline(text: str, longest: float) -> float:
    """Seconds."""
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= longest * 1000):
        raise InvalidRequest(
            f"{DEADLINE_HEADER} must be a whole number of milliseconds from 1 to {longest * 1000:.0f}",
            param=DEADLINE_HEADER,
        )
    return int(text) / 1000
