"""The algorithm in plain Python: for the policy `local`, and what the script in Valkey is tested against.

Requests: GCRA, in its leaky-bucket form. Tokens: a bucket that takes the expected cost beforehand and is corrected
afterwards; a refund stops at the capacity, and what was used beyond the expectation is a debt. Requests in parallel:
leases that end by themselves. Quotas: counted in calendar days and months (UTC). A call is checked against everything
first, and only then anything is taken.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from gateway.limits.terms import MINUTE_MS, Ask, Kind, Level, Limit, Refusal, Scope, Settlement, Verdict

DAY_MS = 86_400_000
KNOWN_SCOPES = 20_000


def day_of(now: int) -> int:
    """Days since 1970."""
    return now // DAY_MS


def month_of(now: int) -> int:
    """Months since the year 0."""
    at = datetime.fromtimestamp(now / 1000, UTC)
    return at.year * 12 + at.month - 1


@dataclass(frozen=True, slots=True)
class Reservation:
    """`day`, `month`: when it was taken; the periods that it counts in."""

    tokens: int
    cost: int
    day: int
    month: int


@dataclass(slots=True)
class State:
    """Of one scope. Levels in 60,000ths as of `at`, None for a full bucket; `active`: uid → end of its lease."""

    at: int = 0
    requests: int | None = None
    tokens: int | None = None
    day: int = 0
    day_tokens: int = 0
    day_cost: int = 0
    month: int = 0
    month_tokens: int = 0
    month_cost: int = 0
    active: dict[str, int] = field(default_factory=dict)
    reserved: dict[str, Reservation] = field(default_factory=dict)

    @property
    def used(self) -> dict[Limit, int]:
        return {
            "tokens_per_day": self.day_tokens,
            "tokens_per_month": self.month_tokens,
            "cost_per_day": self.day_cost,
            "cost_per_month": self.month_cost,
        }

    def advance(self, scope: Scope, now: int) -> None:
        """Refill up to `now`, and begin a new day and month."""
        elapsed = max(0, now - self.at)
        self.requests = _refilled(self.requests, elapsed, scope.requests_per_minute, scope.request_burst)
        self.tokens = _refilled(self.tokens, elapsed, scope.tokens_per_minute, scope.token_burst)
        self.at = now
        if self.day != day_of(now):
            self.day, self.day_tokens, self.day_cost = day_of(now), 0, 0
        if self.month != month_of(now):
            self.month, self.month_tokens, self.month_cost = month_of(now), 0, 0

    def take(self, ask: Ask, until: int) -> None:
        self.active[ask.uid] = until
        self.reserved[ask.uid] = Reservation(ask.tokens, ask.cost, self.day, self.month)
        if self.requests is not None:
            self.requests -= MINUTE_MS
        self._charge(ask.tokens, ask.cost, self.day, self.month)

    def give_back(self, scope: Scope, uid: str, tokens: int, cost: int, *, refund_request: bool) -> None:
        """Replace what `uid` reserved by what it used; nothing happens where nothing is reserved (any more)."""
        self.active.pop(uid, None)
        held = self.reserved.pop(uid, None)
        if held is None:
            return
        self._charge(tokens - held.tokens, cost - held.cost, held.day, held.month)
        if self.tokens is not None:
            self.tokens = min(self.tokens, scope.token_burst * MINUTE_MS)
        if self.requests is not None and refund_request:
            self.requests = min(self.requests + MINUTE_MS, scope.request_burst * MINUTE_MS)

    def reclaim(self, scope: Scope, now: int) -> None:
        """End the leases that nobody prolonged."""
        for uid in [uid for uid, until in self.active.items() if until <= now]:
            self.give_back(scope, uid, 0, 0, refund_request=False)

    def _charge(self, tokens: int, cost: int, day: int, month: int) -> None:
        if self.tokens is not None:
            self.tokens -= tokens * MINUTE_MS
        if day == self.day:
            self.day_tokens += tokens
            self.day_cost += cost
        if month == self.month:
            self.month_tokens += tokens
            self.month_cost += cost


Check = Callable[[Scope, State, Ask], Iterator[Limit]]


class Buckets:
    """Many scopes by their prefix; the ones that nobody asked for longest are forgotten. `now` is Unix ms."""

    def __init__(self, most: int = KNOWN_SCOPES) -> None:
        self._most = most
        self._states: OrderedDict[str, State] = OrderedDict()

    def state(self, scope: Scope) -> State:
        """As it was left; a new one is full."""
        state = self._states.setdefault(scope.prefix, State())
        self._states.move_to_end(scope.prefix)
        if len(self._states) > self._most:
            self._states.popitem(last=False)
        return state

    def reserve(self, ask: Ask, now: int, ttl_ms: int) -> Verdict:
        states = [self.state(scope) for scope in ask.scopes]
        for scope, state in zip(ask.scopes, states, strict=True):
            state.advance(scope, now)
            state.reclaim(scope, now)
        refusal = None
        if ask.uid not in states[0].reserved:
            refusal = _refusal(ask, states)
            if refusal is None:
                for state in states:
                    state.take(ask, now + ttl_ms)
        return Verdict(now, refusal, tuple(Level(state.requests or 0, state.tokens or 0) for state in states))

    def settle(self, done: Settlement, now: int) -> None:
        """A second time changes nothing."""
        for scope in done.ask.scopes:
            state = self.state(scope)
            state.advance(scope, now)
            state.give_back(scope, done.ask.uid, done.tokens, done.cost, refund_request=done.refund_request)

    def beat(self, uid: str, scope: Scope, now: int, ttl_ms: int) -> None:
        """Prolong the lease, if it has not ended."""
        state = self.state(scope)
        if uid in state.active:
            state.active[uid] = now + ttl_ms


def _refilled(level: int | None, elapsed: int, rate: int, burst: int) -> int | None:
    if not rate:
        return None
    capacity = burst * MINUTE_MS
    return capacity if level is None else min(capacity, level + elapsed * rate)


def _refusal(ask: Ask, states: list[State]) -> Refusal | None:
    """What waiting cannot help first, then what ends with a period, then the longest wait, then parallel requests.

    Among equals the key comes before the tenant, and requests before tokens.
    """
    pairs = list(zip(ask.scopes, states, strict=True))
    checks: tuple[tuple[Kind, Check], ...] = (("exceeds", _exceeded), ("quota", _used_up))
    for kind, check in checks:
        for position, (scope, state) in enumerate(pairs):
            for limit in check(scope, state, ask):
                return Refusal(kind, limit, position)
    waits = [(wait, position, limit) for position, pair in enumerate(pairs) for limit, wait in _waits(*pair, ask)]
    wait, position, limit = max(waits, key=lambda one: one[0], default=(0, 0, "requests_per_minute"))
    if wait:
        return Refusal("rate", limit, position, wait)
    for position, (scope, state) in enumerate(pairs):
        if scope.concurrent_requests and len(state.active) >= scope.concurrent_requests:
            return Refusal("concurrency", "concurrent_requests", position)
    return None


def _exceeded(scope: Scope, _: State, ask: Ask) -> Iterator[Limit]:
    if scope.token_burst and ask.tokens > scope.token_burst:
        yield "tokens_per_minute"
    yield from (limit for limit, bound in scope.quotas.items() if bound and _part_of(ask, limit) > bound)


def _used_up(scope: Scope, state: State, ask: Ask) -> Iterator[Limit]:
    used = state.used
    yield from (limit for limit, bound in scope.quotas.items() if bound and used[limit] + _part_of(ask, limit) > bound)


def _part_of(ask: Ask, limit: Limit) -> int:
    return ask.tokens if limit in ("tokens_per_day", "tokens_per_month") else ask.cost


def _waits(scope: Scope, state: State, ask: Ask) -> Iterator[tuple[Limit, int]]:
    """Milliseconds until there is enough, rounded up."""
    if state.requests is not None:
        yield "requests_per_minute", _wait(MINUTE_MS - state.requests, scope.requests_per_minute)
    if state.tokens is not None:
        yield "tokens_per_minute", _wait(ask.tokens * MINUTE_MS - state.tokens, scope.tokens_per_minute)


def _wait(missing: int, rate: int) -> int:
    return max(0, -(-missing // rate))
