"""May this request be answered from the cache, and may its answer be kept? Pure decisions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from gateway.cache.settings import CacheSettings
from gateway.core.call import Caller
from gateway.core.freshness import Freshness
from gateway.core.identity import CACHE_MODES, CacheMode
from python_backends.preprocessing.schema import GenerationRequest

# `version`: nobody knows what would answer.
Bypass = Literal["off", "sampled", "no_store", "version"]
# A tenth more or less, so that what was stored together does not expire together.
JITTER: Final = 0.1


@dataclass(frozen=True, slots=True)
class Terms:
    """`ttl_s`: how long the answer is kept. `shared`: requests that come meanwhile wait for it instead of running.

    `semantic`: the answer to the same question in other words will do; with `turns` after others too, and with `tools`
    where tools may be called.
    """

    freshness: Freshness
    ttl_s: float
    shared: bool
    semantic: bool = False
    turns: bool = False
    tools: bool = False


def terms_of(
    settings: CacheSettings,
    caller: Caller,
    freshness: Freshness,
    body: GenerationRequest,
    random_share: Callable[[], float],
) -> Terms | Bypass:
    """`random_share`: in [0, 1[."""
    mode = mode_of(settings, caller)
    if mode == "off":
        return "off"
    if not freshness.keep or body.store is False:
        return "no_store"
    certain = deterministic(body)
    if not certain and not _granted(caller, "sampled"):
        return "sampled"
    shared = certain and freshness.read
    ttl_s = _ttl(settings, caller, freshness, random_share)
    turns, tools = _granted(caller, "turns"), _granted(caller, "tools")
    return Terms(freshness, ttl_s, shared, semantic=mode == "semantic", turns=turns, tools=tools)


def mode_of(settings: CacheSettings, caller: Caller) -> CacheMode:
    """The key's, but no more than the tenant's; the server's for those who say nothing."""
    most = caller.tenant_cache.mode
    mode = caller.cache.mode or most or settings.mode
    return mode if most is None else min(mode, most, key=CACHE_MODES.index)


def deterministic(body: GenerationRequest) -> bool:
    """Asked again, the engine would say the same."""
    return body.temperature == 0 or body.seed is not None


def _granted(caller: Caller, name: Literal["sampled", "turns", "tools"]) -> bool:
    """Both must agree; the one that says nothing does if the other says so."""
    said = (getattr(caller.cache, name), getattr(caller.tenant_cache, name))
    return True in said and False not in said


def _ttl(settings: CacheSettings, caller: Caller, freshness: Freshness, random_share: Callable[[], float]) -> float:
    bounds = (settings.max_ttl_s, caller.tenant_cache.max_ttl_s, caller.cache.max_ttl_s)
    most = min(bound for bound in bounds if bound is not None)
    wanted = settings.ttl_s if freshness.ttl_s is None else freshness.ttl_s
    return min(most, wanted * (1 - JITTER + 2 * JITTER * random_share()))
