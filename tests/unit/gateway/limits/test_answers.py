"""Headers and errors, as clients read them."""

import pytest

from gateway.core.call import Caller
from gateway.core.identity import Limits, Quotas
from gateway.errors import ExceedsLimit, GatewayError, QuotaExceeded, RateLimited
from gateway.limits.answers import duration, error_of, headers_of
from gateway.limits.terms import MINUTE_MS, NANO, Level, Refusal, Verdict, scopes_of
from tests.unit.gateway.limits.terms import BEFORE_MONTH_END, ask, scope


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0ms"),
        (250, "250ms"),
        (999, "999ms"),
        (1000, "1s"),
        (1250, "1.25s"),
        (60_000, "1m0s"),
        (61_001, "1m1.001s"),
        (360_000, "6m0s"),
        (3_600_000, "1h0m0s"),
        (90_061_500, "25h1m1.5s"),
    ],
)
def test_durations_are_written_as_openai_writes_them(ms: int, text: str) -> None:
    assert duration(ms) == text


def test_headers_tell_of_the_scope_that_has_less_left() -> None:
    key = scope("key", requests_per_minute=60, tokens_per_minute=1000)
    tenant = scope("tenant", requests_per_minute=600, request_burst=100, tokens_per_minute=500)
    verdict = Verdict(0, None, (Level(59 * MINUTE_MS, 990 * MINUTE_MS), Level(99 * MINUTE_MS, 400 * MINUTE_MS - 1)))
    assert headers_of(ask(key, tenant), verdict) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "500",
        "x-ratelimit-remaining-tokens": "399",
        "x-ratelimit-reset-tokens": "12.001s",
    }


def test_headers_are_only_of_limits_that_exist_and_debts_are_no_negative_numbers() -> None:
    key = scope("key", tokens_per_minute=60, concurrent_requests=3)
    headers = headers_of(ask(key), Verdict(0, None, (Level(0, -60 * MINUTE_MS),)))
    assert headers == {
        "x-ratelimit-limit-tokens": "60",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "2m0s",
    }


KEY = scope(
    "key",
    requests_per_minute=60,
    tokens_per_minute=600,
    token_burst=100,
    concurrent_requests=2,
    tokens_per_day=1000,
    cost_per_month=NANO // 2,
)


@pytest.mark.parametrize(
    ("refusal", "kind", "code", "retry_after", "words"),
    [
        (Refusal("rate", "requests_per_minute", 0, 1250), RateLimited, "rate_limit_exceeded", 1.25, "60 requests a"),
        (
            Refusal("rate", "tokens_per_minute", 0, 1),
            RateLimited,
            "rate_limit_exceeded",
            0.001,
            "600 (at most 100 at once) tokens a minute",
        ),
        (
            Refusal("concurrency", "concurrent_requests", 0),
            RateLimited,
            "concurrency_limit_exceeded",
            1.0,
            "2 requests at the same time",
        ),
        (
            Refusal("quota", "tokens_per_day", 0),
            QuotaExceeded,
            "insufficient_quota",
            None,
            "the key's limit of 1000 tokens a day has not enough left for 7 tokens (prompt and expected answer): it "
            "begins anew at 2026-04-01 00:00 UTC",
        ),
        (
            Refusal("quota", "cost_per_month", 0),
            QuotaExceeded,
            "insufficient_quota",
            None,
            "0.5 of cost a month has not enough left for an expected cost of 0.25: it begins anew at 2026-04-01",
        ),
        (Refusal("exceeds", "tokens_per_minute", 0), ExceedsLimit, "exceeds_limit", None, "lower max_tokens or n"),
    ],
)
def test_an_error_names_the_limit_and_what_to_do(
    refusal: Refusal, kind: type[GatewayError], code: str, *, retry_after: float | None, words: str
) -> None:
    error = error_of(ask(KEY, tokens=7, cost=NANO // 4), refusal, BEFORE_MONTH_END)
    assert type(error) is kind
    assert (error.code, error.retry_after) == (code, retry_after)
    assert words in error.message


def test_a_month_that_ends_with_the_year_ends_in_january() -> None:
    december = 1_797_724_800_000  # 2026-12-20
    error = error_of(ask(KEY), Refusal("quota", "cost_per_month", 0), december)
    assert "2027-01-01 00:00 UTC" in error.message


def test_only_what_is_limited_is_a_scope_and_the_keys_name_tenant_and_key() -> None:
    assert scopes_of(Caller("key_1", "acme", frozenset())) == ()
    both = scopes_of(
        Caller(
            "key_1",
            "acme",
            frozenset(),
            limits=Limits(requests_per_minute=60),
            tenant_limits=Limits(tokens_per_minute=100, token_burst=50, request_burst=5),
            tenant_quotas=Quotas(cost_per_day=0.5),
        )
    )
    assert [one.name for one in both] == ["key", "tenant"]
    assert both[0].keys[0] == "trireme:{t:acme}:limits:key:key_1:state"
    assert both[1].keys[1] == "trireme:{t:acme}:limits:tenant:active"
    assert (both[0].request_burst, both[1].token_burst, both[1].cost_per_day) == (60, 50, NANO // 2)
    assert both[1].request_burst == 0


def test_no_amount_of_money_is_so_small_that_it_means_no_bound() -> None:
    caller = Caller("key_1", "acme", frozenset(), quotas=Quotas(cost_per_day=1e-12))
    assert scopes_of(caller)[0].cost_per_day == 1
