"""The stages of the request path, and the pipelines made of them."""

import logging
from collections.abc import AsyncIterator

from aiohttp import web

from gateway.accounting.feedback import Feedback
from gateway.accounting.identities import Identities
from gateway.accounting.index import RequestIndex
from gateway.accounting.ledger import Ledger
from gateway.accounting.measurements import Measurements
from gateway.accounting.stream import LedgerStream
from gateway.accounting.usage import UsageReader
from gateway.admission.gate import Gate
from gateway.admission.meeting import ValkeyCounters
from gateway.admission.sharing import Sharing
from gateway.api.keys import (
    ADAPTERS,
    CACHE,
    DIRECTORY,
    EMBEDDING,
    ENTRIES,
    FEEDBACK,
    GATE,
    GENERATION,
    IDEMPOTENCY,
    LEDGER,
    LIMITER,
    METRICS,
    MODELS,
    OFFLOAD,
    ROUTER,
    TEXTS,
    TOKENIZING,
    TRACES,
    USAGE,
)
from gateway.assembly.adapters import make_keeper, read_adapters
from gateway.assembly.building import Helpers, Known, build_cache, build_checkers, build_chooser
from gateway.assembly.keys import (
    CLIENT,
    FORMS,
    OUTBOX,
    PACES,
    PLANS,
    PREDICTOR,
    PRICES,
    REDIS,
    SEARCHING,
    SETTINGS,
    SIDELINE,
    SPOOL,
    TASKS,
    VALKEY,
)
from gateway.cache.caching import Cache
from gateway.cache.idempotency import Idempotency
from gateway.cache.none import Uncached
from gateway.choosing.chooser import AsNamed
from gateway.choosing.memory import Paces
from gateway.core.snapshot import RoutingSnapshot
from gateway.grammar.forms import AnyForm, Forms
from gateway.limits.limiter import Limiter
from gateway.mirroring.mirroring import Mirroring
from gateway.pipeline import Pipeline
from gateway.routing.attempts import Attempts
from gateway.routing.directory import Directory
from gateway.routing.document import routing_document
from gateway.routing.meters import Meters
from gateway.routing.router import Router
from gateway.routing.sources import SystemResolver, configured, default_routes
from gateway.tokens.counting import EmbeddingTokens, GenerationTokens
from gateway.tokens.prediction import Predictor
from gateway.triton.abort import Aborts
from gateway.triton.embedding import Embedding
from gateway.triton.generation import Generation
from gateway.triton.plan import Plans
from gateway.triton.probe import TritonProbe

SECONDS_PER_DAY = 86400


async def ledger(app: web.Application) -> AsyncIterator[None]:
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


async def repeats(app: web.Application) -> AsyncIterator[None]:
    repeats = Idempotency(app[VALKEY], app[OUTBOX], app[SETTINGS].idempotency, app[METRICS].idempotency)
    app[IDEMPOTENCY] = repeats
    app[TASKS].keep("extend idempotency leases", repeats.keep_leases)
    yield


async def limits(app: web.Application) -> AsyncIterator[None]:
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


async def forms(app: web.Application) -> AsyncIterator[None]:
    """A compiler's process starts with the first request that needs it."""
    settings = app[SETTINGS].grammar
    checkers = build_checkers(app[SETTINGS])
    app[FORMS] = Forms(checkers, settings.max_waiting)
    yield
    for checker in set(checkers.values()):
        checker.stop()
    app[FORMS].close()


async def stages(app: web.Application) -> AsyncIterator[None]:
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


async def watch(app: web.Application) -> AsyncIterator[None]:
    app[ROUTER].watch(app[TASKS])
    sharing = Sharing(app[GATE].scheduler, ValkeyCounters(app[VALKEY]), app[SETTINGS].admission.sharing_interval_s)
    app[TASKS].keep("share what was served", sharing.run)
    app[TASKS].keep("follow the routing document", app[DIRECTORY].follow)
    app[ADAPTERS] = read_adapters(app[SETTINGS], app[REDIS], app[MODELS], app[METRICS])
    make_keeper(app[SETTINGS], app[ADAPTERS], app[ROUTER], app[CLIENT], app[METRICS]).watch(app[TASKS])
    if app[SETTINGS].routing.dns_name is not None:
        app[TASKS].keep("discover backends", app[DIRECTORY].discover)
    yield


def _cache(app: web.Application) -> Cache:
    helpers = Helpers(app[VALKEY], app[SIDELINE], app[OUTBOX], app[PLANS], app[SEARCHING], app[LIMITER].asks)
    app[CACHE], nearest = build_cache(app[SETTINGS], app[METRICS], helpers, app[ROUTER].serving)
    app[TASKS].keep("read what was asked", nearest.run)
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


def _routing(app: web.Application) -> tuple[Router, Directory]:
    settings, meters = app[SETTINGS], Meters(app[METRICS])
    names = ["chat", "embed"] if settings.models.embedding else ["chat"]
    routing = settings.routing
    probe = TritonProbe(app[CLIENT], names, routing.probe_timeout_s, routing.generation_timeout_s)
    models = app[MODELS]
    backends = configured(routing, settings.triton.url, settings.triton.metrics_url)
    base = RoutingSnapshot(backends=backends, models=default_routes(models))
    router = Router(base, routing, probe, meters)
    models.accept_aliases(router.name_of)
    models.accept_versions(router.versions_of)
    document = routing_document(app[REDIS], settings.auth.valkey_timeout_s)
    return router, Directory(base, router, document, resolver=SystemResolver(), settings=routing, meters=meters)
