"""What a tenant and its keys are allowed. Shared by the stages, by the admin API and by the command line."""

from typing import Annotated, Final, Literal

import msgspec

PriorityClass = Literal["interactive", "standard", "batch"]
PRIORITY_CLASSES: Final[tuple[PriorityClass, ...]] = ("interactive", "standard", "batch")
CacheMode = Literal["off", "exact", "semantic"]
CACHE_MODES: Final[tuple[CacheMode, ...]] = ("off", "exact", "semantic")
SCOPES: Final = frozenset({"inference", "embeddings", "admin", "metrics"})

Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)]
Tokens = Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000_000)]
Money = Annotated[float, msgspec.Meta(gt=0, le=1_000_000)]


class Limits(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, forbid_unknown_fields=True):
    """Rates and concurrency; None: no bound.

    A burst is how much may come at once after a pause: the limit of a whole minute when it is left out.
    """

    requests_per_minute: Count | None = None
    request_burst: Count | None = None
    tokens_per_minute: Tokens | None = None
    token_burst: Tokens | None = None
    concurrent_requests: Count | None = None


class Quotas(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, forbid_unknown_fields=True):
    """What may be used in a calendar day or month (UTC), in tokens and in money; None: no bound.

    Money is in the currency in which the prices are set.
    """

    tokens_per_day: Tokens | None = None
    tokens_per_month: Tokens | None = None
    cost_per_day: Money | None = None
    cost_per_month: Money | None = None


class CachePolicy(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, forbid_unknown_fields=True):
    """Whether answers come from the cache; None: as the tenant has it, or the server.

    A key gets no more than its tenant. `semantic`: also those to the same question in other words.
    `max_ttl_s`: how long answers are kept at most. `sampled`: also answers that would be different each time, of which
    everybody gets the first then. `turns`, `tools`: in other words also the last turn of a conversation, and what tools
    may be called for.
    """

    mode: CacheMode | None = None
    max_ttl_s: Annotated[int, msgspec.Meta(ge=1, le=31_536_000)] | None = None
    sampled: bool | None = None
    turns: bool | None = None
    tools: bool | None = None


NO_LIMITS: Final = Limits()
NO_QUOTAS: Final = Quotas()
SERVERS_CACHE: Final = CachePolicy()


def at_most(asked: PriorityClass, most: PriorityClass) -> PriorityClass:
    """The less urgent of the two."""
    return max(asked, most, key=PRIORITY_CLASSES.index)
