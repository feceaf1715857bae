"""The composition root: builds every object once, and owns every lifetime."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import aiohttp
from aiohttp import web
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gateway.accounting.ledger import Ledger
from gateway.admission.gate import Gate
from gateway.api.endpoints import add_endpoints, endpoints
from gateway.api.keys import (
    AUTHENTICATOR,
    EMBEDDING,
    GATE,
    GENERATION,
    HTTP,
    LEDGER,
    METRICS,
    MODELS,
    OFFLOAD,
    OPENAPI,
    ROUTER,
    TEXTS,
    TOKENIZING,
    Texts,
)
from gateway.api.middleware import access
from gateway.api.openapi import describe
from gateway.auth.authenticator import Authenticator
from gateway.auth.store import KeyStore
from gateway.config import Settings, read_pepper
from gateway.core.job import Backend
from gateway.errors import ShuttingDown
from gateway.limits.limiter import Limiter
from gateway.pipeline import Pipeline
from gateway.routing.health import Health
from gateway.routing.models import Models, read_models
from gateway.routing.router import Router
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.tasks import Tasks
from gateway.tokens.counting import EmbeddingTokens, GenerationTokens
from gateway.tokens.offload import Offload
from gateway.triton.abort import Aborts
from gateway.triton.client import TritonClient
from gateway.triton.embedding import Embedding
from gateway.triton.generation import Generation
from gateway.triton.probe import TritonProbe
from gateway.valkey.connection import Valkey
from gateway.valkey.outbox import Outbox
from python_backends.preprocessing.prompts import PromptBuilder
from python_backends.preprocessing.tokenizer import TextTokenizer

log = logging.getLogger(__name__)

SETTINGS = web.AppKey("SETTINGS", Settings)
TASKS = web.AppKey("TASKS", Tasks)
CLIENT = web.AppKey("CLIENT", TritonClient)
REDIS = web.AppKey("REDIS", Redis)
VALKEY = web.AppKey("VALKEY", Valkey)
OUTBOX = web.AppKey("OUTBOX", Outbox)

KEEP_ALIVE_S = 75.0
# Between the end of draining and the end of the process: clients read their last error, aborts reach the engine.
FAREWELL_S = 1.0
SPARE_CONNECTIONS = 16


def make_app(settings: Settings) -> web.Application:
    """The application; what needs a running loop is made when it starts. Raises OSError for unreadable model files."""
    app = web.Application(middlewares=[access], client_max_size=settings.http.max_body_bytes)
    metrics = Metrics()
    table = endpoints(metrics_key=settings.http.metrics_key)
    app[SETTINGS] = settings
    app[HTTP] = settings.http
    app[METRICS] = metrics
    app[LEDGER] = Ledger(metrics)
    app[MODELS] = Models(read_models(settings.models))
    app[TEXTS] = _texts(settings)
    app[OPENAPI] = describe(table, version("trireme"))
    app.cleanup_ctx.extend([_threads, _tasks, _triton, _valkey, _keys, _stages, _watch])
    add_endpoints(app, table)
    return app


async def _threads(app: web.Application) -> AsyncIterator[None]:
    settings = app[SETTINGS]
    pool = ThreadPoolExecutor(settings.tokens.threads, thread_name_prefix="offload")
    app[OFFLOAD] = Offload(pool, settings.http.inline_body_bytes)
    app[TOKENIZING] = Offload(pool, settings.tokens.thread_bytes)
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


async def _valkey(app: web.Application) -> AsyncIterator[None]:
    """The background tasks end here, with what they need still there."""
    settings = app[SETTINGS].auth
    # With a socket_timeout redis-py uses asyncio.wait_for, which before Python 3.12 swallows cancellations.
    pool = BlockingConnectionPool.from_url(
        settings.valkey_url,
        max_connections=settings.valkey_connections,
        timeout=settings.valkey_timeout_s,
        socket_timeout=None,
        socket_connect_timeout=settings.valkey_timeout_s,
        retry=Retry(NoBackoff(), 1),
    )
    async with Redis.from_pool(pool) as redis:
        app[REDIS] = redis
        app[VALKEY] = Valkey(redis, app[SETTINGS].valkey, app[METRICS].valkey_degraded, app[TASKS])
        app[OUTBOX] = Outbox(app[VALKEY])
        app[TASKS].keep("send outbox", app[OUTBOX].run)
        yield
        await app[TASKS].close(FAREWELL_S)
        await app[OUTBOX].flush()


async def _keys(app: web.Application) -> AsyncIterator[None]:
    settings, redis = app[SETTINGS].auth, app[REDIS]
    authenticator = Authenticator(
        KeyStore(redis, read_pepper(settings)), app[METRICS].keys_synced, settings.valkey_timeout_s
    )
    app[AUTHENTICATOR] = authenticator
    app[TASKS].keep("follow keys", lambda: authenticator.follow(redis, settings.snapshot_ttl_s))
    yield


async def _stages(app: web.Application) -> AsyncIterator[None]:
    settings, metrics, client = app[SETTINGS], app[METRICS], app[CLIENT]
    app[GATE] = Gate(settings.admission, metrics)
    app[ROUTER] = _router(settings, client, metrics)
    aborts = Aborts(client, app[TASKS], settings.triton, metrics.aborts)
    limiter = Limiter()
    app[GENERATION] = Pipeline(
        "generate",
        models=app[MODELS],
        tokens=GenerationTokens(app[TEXTS].builders, app[TOKENIZING], settings.tokens),
        limits=limiter,
        admission=app[GATE],
        routing=app[ROUTER],
        engine=Generation(client, aborts, settings.triton.prompts_at_once),
        accounting=app[LEDGER],
    )
    app[EMBEDDING] = Pipeline(
        "embed",
        models=app[MODELS],
        tokens=EmbeddingTokens(app[TEXTS].tokenizers, app[TOKENIZING]),
        limits=limiter,
        admission=app[GATE],
        routing=app[ROUTER],
        engine=Embedding(client, settings.triton.first_byte_timeout_s),
        accounting=app[LEDGER],
    )
    yield


async def _watch(app: web.Application) -> AsyncIterator[None]:
    app[TASKS].keep("watch backend", app[ROUTER].watch)
    yield


def _router(settings: Settings, client: TritonClient, metrics: Metrics) -> Router:
    names = ["chat"] if settings.models.embedding_model_name is None else ["chat", "embed"]
    health = settings.routing
    probe = TritonProbe(client, names, health.probe_timeout_s, health.generation_timeout_s)
    backend = Backend("triton", settings.triton.url.rstrip("/"))
    return Router(backend, Health(health), probe, metrics.backend_up.labels(backend.name))


def _texts(settings: Settings) -> Texts:
    models = settings.models
    builder = PromptBuilder.from_dir(models.model_dir)
    texts = Texts({models.model_name: builder}, {models.model_name: builder.tokenizer})
    if models.embedding_model_name is not None and models.embedding_model_dir is not None:
        texts.tokenizers[models.embedding_model_name] = TextTokenizer.from_dir(models.embedding_model_dir)
    return texts


async def serve(settings: Settings) -> None:
    """Until SIGTERM or SIGINT; then drains. Raises OSError when the address cannot be used."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    runner = make_runner(make_app(settings))
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.http.host, settings.http.port).start()
        log.info("listening on %s", ", ".join(f"http://{host}:{port}" for host, port, *_ in runner.addresses))
        await stop.wait()
        await drain(runner.app, settings.http.drain_s)
    finally:
        await runner.cleanup()
    log.info("stopped")


def make_runner(app: web.Application) -> web.AppRunner:
    """Handlers are cancelled when their client leaves; aiohttp does that only when told to."""
    return web.AppRunner(
        app, handler_cancellation=True, shutdown_timeout=FAREWELL_S / 2, keepalive_timeout=KEEP_ALIVE_S, access_log=None
    )


async def drain(app: web.Application, seconds: float) -> None:
    """New requests get 503 from now on; those that run have `seconds`, and are ended then."""
    gate = app[GATE]
    gate.close()
    log.info("shutting down: running requests have %g s", seconds)
    try:
        async with asyncio.timeout(seconds):
            await gate.drained()
    except TimeoutError:
        gate.end_all(ShuttingDown("the server is shutting down: try again", retry_after=1.0))
