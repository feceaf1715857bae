"""The composition root: builds every object once, and owns every lifetime."""

import logging
import os
import socket
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path

import aiohttp
from aiohttp import web
from redis.asyncio import Redis

from gateway.accounting.feedback import Feedback
from gateway.accounting.identities import Identities
from gateway.accounting.index import RequestIndex
from gateway.accounting.ledger import Ledger
from gateway.accounting.measurements import Measurements
from gateway.accounting.prices import Prices
from gateway.accounting.spool import Spool, default_directory
from gateway.accounting.stream import LedgerStream
from gateway.accounting.usage import UsageReader
from gateway.adapter_parts import make_keeper, read_adapters
from gateway.admission.gate import Gate
from gateway.admission.meeting import ValkeyCounters
from gateway.admission.sharing import Sharing
from gateway.api.endpoints import add_endpoints, endpoints
from gateway.api.keys import (
    ADAPTERS,
    AUTHENTICATOR,
    CACHE,
    CURRENCY,
    DIRECTORY,
    EMBEDDING,
    ENTRIES,
    FEEDBACK,
    GATE,
    GENERATION,
    HTTP,
    IDEMPOTENCY,
    KEY_STORE,
    LEDGER,
    LIMITER,
    METRICS,
    MODELS,
    OFFLOAD,
    OPENAPI,
    ROUTER,
    TENANT_STORE,
    TEXTS,
    TOKENIZING,
    TRACES,
    USAGE,
)
from gateway.api.middleware import access
from gateway.api.openapi import describe
from gateway.auth.authenticator import Authenticator
from gateway.auth.follower import Follower
from gateway.auth.memory import Failures
from gateway.auth.oidc import KeySet, TokenChecker, file_reader
from gateway.auth.secret import digest_of
from gateway.auth.snapshot import Snapshot
from gateway.auth.storage import Storage
from gateway.auth.store import KeyStore
from gateway.auth.tenants import TenantStore
from gateway.building import Helpers, Known, build_cache, build_checkers, build_chooser, build_models
from gateway.cache.caching import Cache
from gateway.cache.idempotency import Idempotency
from gateway.cache.none import Uncached
from gateway.choosing.chooser import AsNamed
from gateway.choosing.memory import Paces
from gateway.config import Settings, read_pepper
from gateway.core.snapshot import RoutingSnapshot
from gateway.grammar.forms import AnyForm, Forms
from gateway.key_set import key_set_reader
from gateway.limits.limiter import Limiter
from gateway.mirroring.mirroring import Mirroring
from gateway.pipeline import Pipeline
from gateway.routing.attempts import Attempts
from gateway.routing.directory import Directory
from gateway.routing.document import Document
from gateway.routing.meters import Meters
from gateway.routing.router import Router
from gateway.routing.sources import SystemResolver, configured, default_routes
from gateway.telemetry.export import SpanQueue, otlp_exporter
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.tasks import Tasks
from gateway.telemetry.traces import Traces
from gateway.texts import read_texts
from gateway.tokens.counting import EmbeddingTokens, GenerationTokens
from gateway.tokens.offload import Offload
from gateway.tokens.prediction import Predictor
from gateway.triton.abort import Aborts
from gateway.triton.client import TritonClient
from gateway.triton.embedding import Embedding
from gateway.triton.generation import Generation
from gateway.triton.plan import Plans
from gateway.triton.probe import TritonProbe
from gateway.valkey.client import client
from gateway.valkey.cluster import ClusterWire
from gateway.valkey.connection import Valkey
from gateway.valkey.outbox import Outbox
from gateway.valkey.wire import Wire

log = logging.getLogger(__name__)

SETTINGS = web.AppKey("SETTINGS", Settings)
TASKS = web.AppKey("TASKS", Tasks)
CLIENT = web.AppKey("CLIENT", TritonClient)
REDIS = web.AppKey("REDIS", Redis)
VALKEY = web.AppKey("VALKEY", Valkey)
OUTBOX = web.AppKey("OUTBOX", Outbox)
PREDICTOR = web.AppKey("PREDICTOR", Predictor)
SPOOL = web.AppKey("SPOOL", Spool)
FORMS = web.AppKey("FORMS", Forms)
PRICES = web.AppKey("PRICES", Prices)
PLANS = web.AppKey("PLANS", Plans)
PACES = web.AppKey("PACES", Paces)
SEARCHING = web.AppKey("SEARCHING", Offload)
TOKEN_CHECKER = web.AppKey("TOKEN_CHECKER", TokenChecker)

# Between the end of draining and the end of the process: clients read their last error, aborts reach the engine.
FAREWELL_S = 1.0
SPARE_CONNECTIONS = 16
SECONDS_PER_DAY = 86400
# Of so many questions the nearest is found in a thread: about half a millisecond's work.
SEARCH_ROWS = 4096


def make_app(settings: Settings) -> web.Application:
    """The application; what needs a running loop is made when it starts. Raises OSError for unreadable model files."""
    app = web.Application(middlewares=[access], client_max_size=settings.http.max_body_bytes)
    metrics = Metrics()
    table = endpoints(metrics_key=settings.http.metrics_key)
    app[SETTINGS] = settings
    app[HTTP] = settings.http
    app[METRICS] = metrics
    app[PRICES] = Prices(settings.accounting)
    app[CURRENCY] = settings.accounting.currency
    app[MODELS] = build_models(settings)
    app[TEXTS] = read_texts(settings, metrics)
    app[OPENAPI] = describe(table, version("trireme"))
    app.cleanup_ctx.extend([_threads, _tasks, _traces, _triton, _spool, _valkey, _ledger, _tokens, _keys])
    app.cleanup_ctx.extend([_repeats, _limits, _forms, _stages, _watch])
    add_endpoints(app, table)
    return app


async def _threads(app: web.Application) -> AsyncIterator[None]:
    settings = app[SETTINGS]
    pool = ThreadPoolExecutor(settings.tokens.threads, thread_name_prefix="offload")
    app[OFFLOAD] = Offload(pool, settings.http.inline_body_bytes)
    app[TOKENIZING] = Offload(pool, settings.tokens.thread_bytes)
    app[SEARCHING] = Offload(pool, SEARCH_ROWS)
    yield
    pool.shutdown(wait=False, cancel_futures=True)


async def _triton(app: web.Application) -> AsyncIterator[None]:
    """Connections suffice for every request that may run, so that aborts and probes never wait for one."""
    settings = app[SETTINGS]
    most = settings.admission.max_running * settings.triton.prompts_at_once + SPARE_CONNECTIONS
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=settings.triton.connect_timeout_s)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=most),
        timeout=timeout,
        headers={"accept-encoding": "identity"},
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        app[CLIENT] = TritonClient(session, settings.triton)
        yield


async def _tasks(app: web.Application) -> AsyncIterator[None]:
    """Ends before the connections that the tasks use."""
    app[TASKS] = Tasks()
    yield


async def _traces(app: web.Application) -> AsyncIterator[None]:
    """Where spans are wanted. Ends after the tasks, so that it sends the spans of the last requests too."""
    settings = app[SETTINGS].traces
    if settings.endpoint is None:
        yield
        return
    queue = SpanQueue(otlp_exporter(settings.endpoint), settings.queue_requests, app[METRICS].spans_dropped)
    app[TRACES] = Traces(settings, queue, f"{socket.gethostname()}-{os.getpid()}")
    app[TASKS].keep("send spans", queue.run)
    yield
    await queue.close(FAREWELL_S)


async def _spool(app: web.Application) -> AsyncIterator[None]:
    """Before the outbox and after it: what that cannot send at the end still finds its place here."""
    settings, metrics = app[SETTINGS].accounting, app[METRICS]
    directory = settings.spool_dir or default_directory()
    app[SPOOL] = Spool(directory, settings.spool_bytes, metrics.ledger_spooled, metrics.ledger_dropped)
    await app[SPOOL].open()
    yield
    await app[SPOOL].close()


async def _valkey(app: web.Application) -> AsyncIterator[None]:
    """The background tasks end here, with what they need still there."""
    settings = app[SETTINGS].auth
    url, cluster = settings.valkey_url, settings.valkey_cluster
    async with client(
        url, cluster=cluster, connections=settings.valkey_connections, timeout_s=settings.valkey_timeout_s
    ) as redis:
        app[REDIS] = redis
        wire = ClusterWire(url) if cluster else Wire.to(url)
        app[VALKEY] = Valkey(wire, app[SETTINGS].valkey, app[METRICS].valkey_degraded)
        app[OUTBOX] = Outbox(app[VALKEY])
        app[TASKS].keep("send outbox", app[OUTBOX].run)
        yield
        await app[TASKS].close(FAREWELL_S)
        await app[OUTBOX].flush()
        wire.drop()


async def _ledger(app: web.Application) -> AsyncIterator[None]:
    settings, metrics, spool = app[SETTINGS].accounting, app[METRICS], app[SPOOL]
    index = RequestIndex(settings.feedback_requests, int(settings.feedback_days * SECONDS_PER_DAY))
    entries = LedgerStream(
        app[OUTBOX], app[VALKEY], spool, settings.stream_entries, metrics.ledger_written, index=index
    )
    identities = Identities(settings.top_identities)
    metrics.registry.register(identities)
    app[ENTRIES], app[PACES] = entries, Paces()
    traces = [app[TRACES]] if TRACES in app else []
    app[LEDGER] = Ledger(app[PRICES], [Measurements(metrics), identities, entries, app[PACES], *traces])
    app[FEEDBACK] = Feedback(
        app[VALKEY], index, settings.stream_entries, count=metrics.feedback, scores=metrics.feedback_scores
    )
    app[USAGE] = UsageReader(app[REDIS])
    app[TASKS].keep("write spool", spool.run)
    app[TASKS].keep("empty spool", entries.run)
    yield


async def _tokens(app: web.Application) -> AsyncIterator[None]:
    """Bearer tokens of an identity provider, if there is one."""
    settings = app[SETTINGS].oidc
    if settings.jwks is None:
        yield
        return
    timeout = aiohttp.ClientTimeout(total=settings.timeout_s)
    async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:
        read = key_set_reader(session, settings.jwks) if settings.remote else file_reader(Path(settings.jwks))
        app[TOKEN_CHECKER] = TokenChecker(settings, KeySet(read))
        app[TASKS].keep("follow the identity provider's keys", app[TOKEN_CHECKER].follow)
        yield


async def _keys(app: web.Application) -> AsyncIterator[None]:
    settings, redis, metrics = app[SETTINGS].auth, app[REDIS], app[METRICS]
    pepper, snapshot, storage = read_pepper(settings), Snapshot(), Storage(redis)
    app[KEY_STORE], app[TENANT_STORE] = KeyStore(redis, pepper), TenantStore(redis)
    app[AUTHENTICATOR] = Authenticator(
        snapshot,
        storage,
        partial(digest_of, pepper=pepper),
        failures=metrics.auth_failures,
        attempts=Failures(settings.failed_attempts_per_minute, time.monotonic),
        tokens=app.get(TOKEN_CHECKER),
        timeout_s=settings.valkey_timeout_s,
    )
    follower = Follower(
        snapshot,
        storage,
        synced=metrics.keys_synced,
        restored=metrics.keys_restored,
        used=app[AUTHENTICATOR].take_used,
        timeout_s=settings.valkey_timeout_s,
    )
    app[TASKS].keep("follow keys", lambda: follower.follow(redis, settings.snapshot_ttl_s))
    yield


async def _repeats(app: web.Application) -> AsyncIterator[None]:
    repeats = Idempotency(app[VALKEY], app[OUTBOX], app[SETTINGS].idempotency, app[METRICS].idempotency)
    app[IDEMPOTENCY] = repeats
    app[TASKS].keep("extend idempotency leases", repeats.keep_leases)
    yield


async def _limits(app: web.Application) -> AsyncIterator[None]:
    app[PREDICTOR] = Predictor(app[SETTINGS].tokens.expected_answer)
    app[LIMITER] = limiter = Limiter(
        app[VALKEY],
        app[OUTBOX],
        app[SETTINGS].limits,
        app[METRICS],
        price=app[PRICES].price,
        learn=app[PREDICTOR].learn,
    )
    app[TASKS].keep("prolong leases", limiter.heartbeat)
    yield


async def _forms(app: web.Application) -> AsyncIterator[None]:
    """A compiler's process starts with the first request that needs it."""
    settings = app[SETTINGS].grammar
    checkers = build_checkers(app[SETTINGS])
    app[FORMS] = Forms(checkers, settings.max_waiting)
    yield
    for checker in set(checkers.values()):
        checker.stop()
    app[FORMS].close()


async def _stages(app: web.Application) -> AsyncIterator[None]:
    settings, metrics, client = app[SETTINGS], app[METRICS], app[CLIENT]
    app[ROUTER], app[DIRECTORY] = _routing(app)
    app[GATE] = Gate(settings.admission, metrics, strain=lambda: app[ROUTER].overload)
    app[PLANS] = Plans(client, app[ROUTER].spot, settings.triton, outcomes=metrics.plans, seconds=metrics.plan_seconds)
    routing = Attempts(app[ROUTER], settings.routing, metrics.retries)
    mirroring = _mirroring(app)
    limiter, forms = app[LIMITER], app[FORMS]
    tokens = GenerationTokens(app[TEXTS].builders, app[TOKENIZING], app[PREDICTOR])
    known = Known(app[MODELS], app[PRICES], app[ROUTER], app[PACES])
    app[GENERATION] = Pipeline(
        "generate",
        models=app[MODELS],
        choosing=build_chooser(settings, metrics, known, app[PLANS], tokens),
        tokens=tokens,
        limits=limiter,
        grammar=forms,
        cache=_cache(app),
        admission=app[GATE],
        routing=routing,
        engine=mirroring,
        accounting=app[LEDGER],
    )
    app[EMBEDDING] = Pipeline(
        "embed",
        models=app[MODELS],
        choosing=AsNamed(),
        tokens=EmbeddingTokens(app[TEXTS].tokenizers, app[TOKENIZING]),
        limits=limiter,
        grammar=AnyForm(),
        cache=Uncached(),
        admission=app[GATE],
        routing=routing,
        engine=Embedding(client, settings.triton.first_byte_timeout_s),
        accounting=app[LEDGER],
    )
    yield
    await mirroring.close()


def _cache(app: web.Application) -> Cache:
    helpers = Helpers(app[VALKEY], app[OUTBOX], app[PLANS], app[SEARCHING])
    app[CACHE], semantic = build_cache(app[SETTINGS], app[METRICS], helpers, app[ROUTER].serving)
    app[TASKS].keep("read what was asked", semantic.rebuild)
    return app[CACHE]


def _mirroring(app: web.Application) -> Mirroring:
    settings, metrics, client = app[SETTINGS], app[METRICS], app[CLIENT]
    aborts = Aborts(client, app[TASKS], settings.triton, metrics.aborts)
    return Mirroring(
        Generation(client, aborts, settings.triton.prompts_at_once),
        app[ROUTER],
        Ledger(app[PRICES], [app[ENTRIES]], logging.DEBUG),
        settings.mirroring,
        threads=app[OFFLOAD],
        outcomes=metrics.mirrored,
        closing=lambda: app[GATE].closed,
    )


async def _watch(app: web.Application) -> AsyncIterator[None]:
    app[ROUTER].watch(app[TASKS])
    sharing = Sharing(app[GATE].scheduler, ValkeyCounters(app[VALKEY]), app[SETTINGS].admission.sharing_interval_s)
    app[TASKS].keep("share what was served", sharing.run)
    app[TASKS].keep("follow the routing document", app[DIRECTORY].follow)
    app[ADAPTERS] = read_adapters(app[SETTINGS], app[REDIS], app[MODELS], app[METRICS])
    make_keeper(app[SETTINGS], app[ADAPTERS], app[ROUTER], app[CLIENT], app[METRICS]).watch(app[TASKS])
    if app[SETTINGS].routing.dns_name is not None:
        app[TASKS].keep("discover backends", app[DIRECTORY].discover)
    yield


def _routing(app: web.Application) -> tuple[Router, Directory]:
    settings, meters = app[SETTINGS], Meters(app[METRICS])
    names = ["chat", "embed"] if settings.models.embedding else ["chat"]
    routing = settings.routing
    probe = TritonProbe(app[CLIENT], names, routing.probe_timeout_s, routing.generation_timeout_s)
    models = app[MODELS]
    base = RoutingSnapshot(backends=configured(routing, settings.triton.url), models=default_routes(models))
    router = Router(base, routing, probe, meters)
    models.accept_aliases(router.name_of)
    models.accept_versions(router.versions_of)
    document = Document(app[REDIS], settings.auth.valkey_timeout_s)
    return router, Directory(base, router, document, resolver=SystemResolver(), settings=routing, meters=meters)
