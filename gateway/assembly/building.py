"""What the composition root builds from the settings alone."""

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gateway.accounting.prices import NANO, Prices
from gateway.cache.caching import Cache, ServingOf
from gateway.cache.memory import Memory
from gateway.cache.semantic.local import LocalSearch, Threads
from gateway.cache.semantic.nearest import Nearest
from gateway.cache.semantic.semantic import Semantic
from gateway.cache.semantic.server import OfferedSearch, ServerSearch
from gateway.cache.settings import CacheSettings
from gateway.cache.shelf import Shelf
from gateway.choosing.chooser import Chooser, Lengths, Planning
from gateway.choosing.memory import Paces
from gateway.config import Settings
from gateway.core.call import Call, Model
from gateway.routing.models import Models, read_models
from gateway.routing.router import Router
from gateway.telemetry.metrics import Metrics
from gateway.tokens.offload import Offload
from gateway.triton.plan import Plans
from gateway.valkey.connection import Valkey
from gateway.valkey.outbox import Outbox
from gateway.valkey.sideline import SideLine
from python_backends.grammar.checker import GrammarChecker

# A router compares prices as of requests of this shape: a million tokens, a quarter of them generated.
_PROMPT, _ANSWER = 750_000, 250_000


def build_models(settings: Settings) -> Models:
    """Those of the directories, and the routers among them. Raises OSError for files that cannot be read."""
    models = {model.name: model for model in read_models(settings.models)}
    return Models([*models.values(), *_routers(settings, models)])


def _routers(settings: Settings, models: dict[str, Model]) -> Iterator[Model]:
    """Each takes as much as the most patient of its candidates."""
    for router in settings.choosing.routers or ():
        candidates = [models[name] for name in router.models]
        yield Model(
            name=router.name,
            task="generate",
            max_model_len=max(one.max_model_len for one in candidates),
            created=max(one.created for one in candidates),
            candidates=router.models,
        )


def build_checkers(settings: Settings) -> dict[str, GrammarChecker]:
    """By model; those from the same directory share one."""
    specs = settings.models.generating
    made = {directory: GrammarChecker(directory, settings.grammar.limits) for directory in {spec.dir for spec in specs}}
    return {spec.name: made[spec.dir] for spec in specs}


@dataclass(frozen=True)
class Known:
    """Whom routers ask about their candidates."""

    models: Models
    prices: Prices
    router: Router
    paces: Paces


def build_chooser(settings: Settings, metrics: Metrics, known: Known, plans: Planning, lengths: Lengths) -> Chooser:
    return Chooser(
        settings.choosing,
        plans,
        lengths,
        model_of=known.models.plain,
        cost_of=lambda model: known.prices.price(known.models.plain(model), _PROMPT, _ANSWER, 0) / NANO,
        saturation_of=known.router.saturation_of,
        paces=known.paces,
        choices=metrics.choices,
    )


@dataclass(frozen=True)
class Helpers:
    """What the cache works with. `limited`: whether limits ask Valkey about a call."""

    valkey: Valkey
    aside: SideLine
    outbox: Outbox
    plans: Plans
    threads: Offload
    limited: Callable[[Call], bool]


def build_cache(settings: Settings, metrics: Metrics, helpers: Helpers, serving_of: ServingOf) -> tuple[Cache, Nearest]:
    """And the part of it that has something to do in the background."""
    own = settings.cache
    shelf = Shelf(helpers.valkey, helpers.outbox, own, secrets.token_hex(8), metrics.cache_stores)
    memory = Memory(own.local_bytes, own.local_s, time.monotonic)
    encoder = settings.models.embedding_model_name
    nearest = build_nearest(shelf, helpers.threads, helpers.aside, own, metrics, cluster=settings.auth.valkey_cluster)
    semantic = Semantic(shelf, helpers.plans, nearest, own, metrics, encoder=encoder)
    return Cache(shelf, memory, own, metrics, serving_of, semantic=semantic, limited=helpers.limited), nearest


def build_nearest(
    shelf: Shelf,
    threads: Threads,
    aside: SideLine,
    settings: CacheSettings,
    metrics: Metrics,
    *,
    cluster: bool = False,
    clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
) -> Nearest:
    """Where `settings` want it. `clock`: Unix seconds."""
    local = LocalSearch(shelf, threads, settings, clock)
    metrics.cache_semantic_entries.set_function(lambda: local.size)
    if settings.semantic_search == "local":
        return local
    fallback = local if settings.semantic_search == "auto" else None
    return OfferedSearch(ServerSearch(aside, cluster=cluster, clock=monotonic), fallback, metrics.cache_semantic_server)
