"""Verdicts as clients see them: headers and errors."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from gateway.errors import ExceedsLimit, GatewayError, QuotaExceeded, RateLimited
from gateway.limits.terms import MINUTE_MS, NANO, Ask, Limit, Refusal, Scope, Verdict

# Nobody knows when a running request ends.
CONCURRENCY_RETRY_S: Final = 1.0
SECOND_MS: Final = 1000

_WORDS: Final[dict[Limit, str]] = {
    "requests_per_minute": "requests a minute",
    "tokens_per_minute": "tokens a minute",
    "concurrent_requests": "requests at the same time",
    "tokens_per_day": "tokens a day",
    "tokens_per_month": "tokens a month",
    "cost_per_day": "of cost a day",
    "cost_per_month": "of cost a month",
}


@dataclass(frozen=True, slots=True)
class _Bucket:
    """`level` in 60,000ths."""

    level: int
    rate: int
    capacity: int

    @property
    def remaining(self) -> int:
        return max(0, self.level // MINUTE_MS)

    @property
    def reset_ms(self) -> int:
        """Until it is full."""
        return max(0, -(-(self.capacity * MINUTE_MS - self.level) // self.rate))


def headers_of(ask: Ask, verdict: Verdict) -> dict[str, str]:
    """Of the scope that has less left; of the key where both have the same."""
    headers: dict[str, str] = {}
    for name, buckets in (("requests", _requests(ask, verdict)), ("tokens", _tokens(ask, verdict))):
        tightest = min(buckets, key=lambda one: one.remaining, default=None)
        if tightest is not None:
            headers[f"x-ratelimit-limit-{name}"] = str(tightest.capacity)
            headers[f"x-ratelimit-remaining-{name}"] = str(tightest.remaining)
            headers[f"x-ratelimit-reset-{name}"] = duration(tightest.reset_ms)
    return headers


def _requests(ask: Ask, verdict: Verdict) -> Iterator[_Bucket]:
    for scope, level in zip(ask.scopes, verdict.levels, strict=True):
        if scope.requests_per_minute:
            yield _Bucket(level.requests, scope.requests_per_minute, scope.request_burst)


def _tokens(ask: Ask, verdict: Verdict) -> Iterator[_Bucket]:
    for scope, level in zip(ask.scopes, verdict.levels, strict=True):
        if scope.tokens_per_minute:
            yield _Bucket(level.tokens, scope.tokens_per_minute, scope.token_burst)


def duration(ms: int) -> str:
    """As OpenAI writes it: `250ms`, `1.5s`, `6m0s`, `1h0m0s`."""
    if ms < SECOND_MS:
        return f"{ms}ms"
    minutes, rest = divmod(ms, MINUTE_MS)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{rest / SECOND_MS:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds


def error_of(ask: Ask, refusal: Refusal, now: int) -> GatewayError:
    """`now`: Unix milliseconds."""
    scope = ask.scopes[refusal.scope]
    limit = f"the {scope.name}'s limit of {_amount(scope, refusal.limit)} {_WORDS[refusal.limit]}"
    match refusal.kind:
        case "exceeds":
            return ExceedsLimit(
                f"the request alone, with {_asked(ask, refusal.limit)}, is more than {limit} ever allows: "
                "shorten it, or lower max_tokens or n"
            )
        case "quota":
            return QuotaExceeded(
                f"{limit} has not enough left for {_asked(ask, refusal.limit)}: "
                f"it begins anew at {_period_end(refusal.limit, now)}"
            )
        case "rate":
            seconds = refusal.wait_ms / SECOND_MS
            return RateLimited(f"{limit} is reached: try again in {seconds:g} s", retry_after=seconds)
        case "concurrency":
            return RateLimited(
                f"{limit} is reached: try again when one has ended",
                code="concurrency_limit_exceeded",
                retry_after=CONCURRENCY_RETRY_S,
            )


def _amount(scope: Scope, limit: Limit) -> str:
    """Of a bucket its capacity where that is what does not suffice: the burst."""
    if limit.startswith("cost"):
        return f"{getattr(scope, limit) / NANO:g}"
    bound = str(getattr(scope, limit))
    burst = {"requests_per_minute": scope.request_burst, "tokens_per_minute": scope.token_burst}.get(limit)
    return bound if burst is None or str(burst) == bound else f"{bound} (at most {burst} at once)"


def _asked(ask: Ask, limit: Limit) -> str:
    if limit.startswith("cost"):
        return f"an expected cost of {ask.cost / NANO:g}"
    return f"{ask.tokens} tokens (prompt and expected answer)"


def _period_end(limit: Limit, now: int) -> str:
    today = datetime.fromtimestamp(now / SECOND_MS, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if limit.endswith("day"):
        end = today + timedelta(days=1)
    else:
        end = (today.replace(day=1) + timedelta(days=32)).replace(day=1)
    return f"{end:%Y-%m-%d %H:%M} UTC"
