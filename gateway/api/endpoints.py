"""Every address of the gateway: what it takes, what it gives, and which keys may use it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from gateway.admission.state import AdmissionState
from gateway.api import (
    adapters,
    admin_cache,
    admin_keys,
    admin_tenants,
    admission,
    backends,
    chat,
    completions,
    embeddings,
    feedback,
    models,
    operations,
    rerank,
    tokenization,
    usage,
    versions,
)
from gateway.api.adapters import AdapterAdd, AdapterChange, AdapterList, AdapterObject, AdapterPromote, AdapterRemoved
from gateway.api.address import client_address
from gateway.api.admin_cache import CacheList, CachePurged
from gateway.api.admin_keys import KeyChange, KeyCreate, KeyList, KeyObject, KeyRotate
from gateway.api.admin_tenants import TenantChange, TenantCreate, TenantList, TenantObject
from gateway.api.backends import BackendCreate, BackendList, BackendObject, BackendRemoved
from gateway.api.feedback import FeedbackCreate, FeedbackObject
from gateway.api.idempotency import repeatable
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
    RerankList,
    TextCompletion,
    Tokenized,
)
from gateway.api.usage import UsageList
from gateway.api.versions import VersionList
from gateway.core.limit import TimeLimit
from gateway.errors import InvalidRequest, ShuttingDown
from python_backends.preprocessing.schema import ChatRequest, CompletionRequest, EmbeddingRequest

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
DEADLINE_HEADER = "x-deadline-ms"
ANY_KEY: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Endpoint:
    """`scopes`: the key needs one of them (none named: any key), None: no key at all.

    `takes`, `gives`: body types, None for what is not JSON. `status`: of success. `query`: names of its parameters.
    `work`: refused while shutting down.
    `repeatable`: takes an `Idempotency-Key`.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    scopes: frozenset[str] | None
    takes: Any = None
    gives: Any = None
    status: int = 200
    query: tuple[str, ...] = ()
    streams: bool = False
    work: bool = True
    repeatable: bool = False


def endpoints(*, metrics_key: bool) -> list[Endpoint]:
    inference = frozenset({"inference"})
    either = frozenset({"inference", "embeddings"})
    return [
        Endpoint(
            "POST", "/v1/chat/completions", chat.create, "Answer a conversation", inference,
            takes=ChatRequest, gives=ChatCompletion, streams=True, repeatable=True,
        ),
        Endpoint(
            "POST", "/v1/completions", completions.create, "Continue texts", inference,
            takes=CompletionRequest, gives=TextCompletion, streams=True, repeatable=True,
        ),
        Endpoint(
            "POST", "/v1/embeddings", embeddings.create, "Turn texts into vectors", frozenset({"embeddings"}),
            takes=EmbeddingRequest, gives=EmbeddingList, repeatable=True,
        ),
        Endpoint(
            "POST", "/v1/feedback", feedback.create, "Say how good an answer was", either,
            takes=FeedbackCreate, gives=FeedbackObject,
        ),
        Endpoint(
            "POST", "/v1/rerank", rerank.create, "Order documents by their likeness to a query",
            frozenset({"embeddings"}), takes=rerank.RerankRequest, gives=RerankList, repeatable=True,
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
        *_admin_endpoints(),
        *_backend_endpoints(),
        *_adapter_endpoints(),
        Endpoint("GET", "/health/live", operations.live, "Does the process run?", None, gives=Liveness, work=False),
        Endpoint("GET", "/health/ready", operations.ready, "Can it serve?", None, gives=Readiness, work=False),
        Endpoint(
            "GET", "/metrics", operations.metrics, "Prometheus metrics",
            frozenset({"metrics"}) if metrics_key else None, work=False,
        ),
        Endpoint("GET", "/openapi.json", operations.openapi, "This page", None, gives=dict[str, Any], work=False),
    ]  # fmt: skip


def _admin_endpoints() -> list[Endpoint]:
    """An administrator's key, whichever tenant it belongs to, is good for all tenants."""
    admin = frozenset({"admin"})
    tenants, tenant = "/admin/v1/tenants", "/admin/v1/tenants/{tenant}"
    keys, key = "/admin/v1/keys", "/admin/v1/keys/{key}"
    return [
        Endpoint("GET", tenants, admin_tenants.index, "List the tenants", admin, gives=TenantList),
        Endpoint(
            "POST", tenants, admin_tenants.create, "Create a tenant", admin,
            takes=TenantCreate, gives=TenantObject, status=201,
        ),
        Endpoint("GET", tenant, admin_tenants.show, "One tenant", admin, gives=TenantObject),
        Endpoint(
            "PATCH", tenant, admin_tenants.change, "Change a tenant", admin, takes=TenantChange, gives=TenantObject,
        ),
        Endpoint(
            "DELETE", tenant, admin_tenants.delete, "Delete a tenant", admin, gives=TenantObject, query=("force",),
        ),
        Endpoint(
            "GET", "/admin/v1/usage", usage.index, "What was used, by tenant, key, model or day", admin,
            gives=UsageList, query=usage.PARAMETERS,
        ),
        Endpoint(
            "GET", "/admin/v1/admission", admission.show, "Who runs, who waits, who is refused", admin,
            gives=AdmissionState, work=False,
        ),
        Endpoint(
            "GET", "/admin/v1/cache", admin_cache.index, "What is kept for each tenant", admin,
            gives=CacheList, query=admin_cache.SHOWING,
        ),
        Endpoint(
            "DELETE", "/admin/v1/cache", admin_cache.purge, "Purge stored answers", admin,
            gives=CachePurged, query=admin_cache.PURGING,
        ),
        Endpoint("GET", keys, admin_keys.index, "List API keys", admin, gives=KeyList, query=("tenant",)),
        Endpoint(
            "POST", keys, admin_keys.create, "Create an API key", admin,
            takes=KeyCreate, gives=KeyObject, status=201,
        ),
        Endpoint("GET", key, admin_keys.show, "One API key", admin, gives=KeyObject),
        Endpoint("PATCH", key, admin_keys.change, "Change an API key", admin, takes=KeyChange, gives=KeyObject),
        Endpoint("DELETE", key, admin_keys.revoke, "Revoke an API key", admin, gives=KeyObject),
        Endpoint(
            "POST", f"{key}/rotate", admin_keys.rotate, "Give an API key a new secret", admin,
            takes=KeyRotate, gives=KeyObject, status=201,
        ),
    ]  # fmt: skip


def _backend_endpoints() -> list[Endpoint]:
    admin = frozenset({"admin"})
    every, one = "/admin/v1/backends", "/admin/v1/backends/{backend}"
    return [
        Endpoint("GET", every, backends.index, "List the backends", admin, gives=BackendList),
        Endpoint(
            "POST", every, backends.create, "Add a backend", admin,
            takes=BackendCreate, gives=BackendObject, status=201,
        ),
        Endpoint("DELETE", one, backends.remove, "Remove a backend", admin, gives=BackendRemoved),
        Endpoint("POST", f"{one}/drain", backends.drain, "Send a backend nothing new", admin, gives=BackendObject),
        Endpoint("POST", f"{one}/undrain", backends.undrain, "Use a backend again", admin, gives=BackendObject),
        Endpoint("GET", "/admin/v1/versions", versions.index, "List the models' versions", admin, gives=VersionList),
    ]  # fmt: skip


def _adapter_endpoints() -> list[Endpoint]:
    admin = frozenset({"admin"})
    every, one = "/admin/v1/adapters", "/admin/v1/adapters/{adapter}"
    return [
        Endpoint("GET", every, adapters.index, "List the adapters", admin, gives=AdapterList),
        Endpoint(
            "POST", every, adapters.add, "Add a revision of an adapter", admin,
            takes=AdapterAdd, gives=AdapterObject, status=201,
        ),
        Endpoint("GET", one, adapters.show, "One adapter", admin, gives=AdapterObject),
        Endpoint(
            "PATCH", one, adapters.change, "Pin or limit an adapter", admin,
            takes=AdapterChange, gives=AdapterObject,
        ),
        Endpoint(
            "DELETE", one, adapters.remove, "Remove an adapter, or a revision", admin,
            gives=AdapterRemoved, query=("revision",),
        ),
        Endpoint(
            "POST", f"{one}/promote", adapters.promote, "Let the name mean another revision", admin,
            takes=AdapterPromote, gives=AdapterObject,
        ),
    ]  # fmt: skip


def add_endpoints(app: web.Application, table: list[Endpoint]) -> None:
    for endpoint in table:
        if endpoint.method == "GET":
            app.router.add_get(endpoint.path, _guarded(endpoint))  # and HEAD
        else:
            app.router.add_route(endpoint.method, endpoint.path, _guarded(endpoint))


def _guarded(endpoint: Endpoint) -> Handler:
    """First of all: may this caller be here, and how long may it take?"""
    scopes = endpoint.scopes
    handler = repeatable(endpoint.handler) if endpoint.repeatable else endpoint.handler

    async def handle(request: web.Request) -> web.StreamResponse:
        call = request[CALL]
        if endpoint.work and request.app[GATE].closed:
            raise ShuttingDown("the server is shutting down: try again", retry_after=1.0)
        if scopes is not None:
            call.caller = await request.app[AUTHENTICATOR].authenticate(
                _secret(request), scopes, client_address(request)
            )
            call.mark("auth")
        if DEADLINE_HEADER in request.headers:
            call.limit = TimeLimit(_deadline(request.headers[DEADLINE_HEADER], request.app[HTTP].max_deadline_s))
        return await handler(request)

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
