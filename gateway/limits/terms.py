"""What is asked, held and answered; the same words for Valkey and for the buckets in this process.

Time is in Unix milliseconds. A bucket's level is counted in 60,000ths, so that a limit of n a minute refills exactly n
of them in each millisecond: everything stays an integer, and waits are exact. Money is in 10⁻⁹ of the currency.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final, Literal

from gateway.core.call import Caller, Model
from gateway.core.identity import NO_QUOTAS, Limits, Quotas

MINUTE_MS: Final = 60_000
NANO: Final = 1_000_000_000
KNOWN_CALLERS: Final = 10_000

ScopeName = Literal["key", "tenant", "adapter"]
Kind = Literal["exceeds", "quota", "rate", "concurrency"]
Limit = Literal[
    "requests_per_minute",
    "tokens_per_minute",
    "concurrent_requests",
    "tokens_per_day",
    "tokens_per_month",
    "cost_per_day",
    "cost_per_month",
]


@dataclass(frozen=True)
class Scope:
    """The limits of one key or one tenant; 0: no bound. `prefix` begins the names of its keys in Valkey."""

    name: ScopeName
    prefix: str
    requests_per_minute: int = 0
    request_burst: int = 0
    tokens_per_minute: int = 0
    token_burst: int = 0
    concurrent_requests: int = 0
    tokens_per_day: int = 0
    tokens_per_month: int = 0
    cost_per_day: int = 0
    cost_per_month: int = 0

    @cached_property
    def keys(self) -> tuple[str, str, str]:
        """Levels and counts (a line of numbers) · who is active until when (sorted set) · what each reserved (hash)."""
        return f"{self.prefix}:state", f"{self.prefix}:active", f"{self.prefix}:reserved"

    @cached_property
    def numbers(self) -> tuple[int, ...]:
        """All bounds, in the order of the fields."""
        return (
            self.requests_per_minute,
            self.request_burst,
            self.tokens_per_minute,
            self.token_burst,
            self.concurrent_requests,
            *self.quotas.values(),
        )

    @cached_property
    def quotas(self) -> Mapping[Limit, int]:
        return {
            "tokens_per_day": self.tokens_per_day,
            "tokens_per_month": self.tokens_per_month,
            "cost_per_day": self.cost_per_day,
            "cost_per_month": self.cost_per_month,
        }

    def share(self, replicas: int) -> "Scope":
        """One gateway's part of every bound, at least 1."""
        return Scope(self.name, self.prefix, *(_part(bound, replicas) for bound in self.numbers))


@dataclass(frozen=True, slots=True)
class Ask:
    """What one call reserves in all its scopes, which belong to one tenant. `uid` names the reservation."""

    uid: str
    tenant: str
    scopes: tuple[Scope, ...]
    tokens: int
    cost: int


@dataclass(frozen=True, slots=True)
class Settlement:
    """What became of `ask`: what was really used. `refund_request`: it does not count as a request either."""

    ask: Ask
    tokens: int
    cost: int
    refund_request: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """`scope`: position in the ask. `wait_ms`: 0 where waiting has no known end."""

    kind: Kind
    limit: Limit
    scope: int
    wait_ms: int = 0


@dataclass(frozen=True, slots=True)
class Level:
    """What is left in a scope's buckets, in 60,000ths; negative: debt. Without a limit it means nothing."""

    requests: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """`levels`: of each scope of the ask, after it."""

    now: int
    refusal: Refusal | None
    levels: tuple[Level, ...]


@lru_cache(KNOWN_CALLERS)
def scopes_of(caller: Caller) -> tuple[Scope, ...]:
    """The key before the tenant; none where nothing is limited. All keys of a tenant lie in one slot of a cluster."""
    tenant = f"trireme:{{t:{caller.tenant}}}:limits"
    scopes = (
        _scope("key", f"{tenant}:key:{caller.key_id}", caller.limits, caller.quotas),
        _scope("tenant", f"{tenant}:tenant", caller.tenant_limits, caller.tenant_quotas),
    )
    return tuple(scope for scope in scopes if any(scope.numbers))


@lru_cache(KNOWN_CALLERS)
def scopes_of_model(tenant: str, model: Model) -> tuple[Scope, ...]:
    """What one tenant may use of an adapter, beside all else that it may."""
    scope = _scope("adapter", f"trireme:{{t:{tenant}}}:limits:adapter:{model.name}", model.limits, NO_QUOTAS)
    return (scope,) if any(scope.numbers) else ()


def _scope(name: ScopeName, prefix: str, limits: Limits, quotas: Quotas) -> Scope:
    """A burst without a rate bounds nothing."""
    requests, tokens = limits.requests_per_minute or 0, limits.tokens_per_minute or 0
    return Scope(
        name=name,
        prefix=prefix,
        requests_per_minute=requests,
        request_burst=limits.request_burst or requests if requests else 0,
        tokens_per_minute=tokens,
        token_burst=limits.token_burst or tokens if tokens else 0,
        concurrent_requests=limits.concurrent_requests or 0,
        tokens_per_day=quotas.tokens_per_day or 0,
        tokens_per_month=quotas.tokens_per_month or 0,
        cost_per_day=_nano(quotas.cost_per_day),
        cost_per_month=_nano(quotas.cost_per_month),
    )


def _nano(money: float | None) -> int:
    return 0 if money is None else max(1, round(money * NANO))


def _part(bound: int, replicas: int) -> int:
    return bound and max(1, bound // replicas)
