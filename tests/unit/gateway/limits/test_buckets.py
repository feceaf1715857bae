"""What limits promise, of the script in Valkey and of the plain Python alike."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.limits.buckets import Buckets, month_of
from gateway.limits.terms import MINUTE_MS, Refusal, Settlement, Verdict
from tests.unit.gateway.limits.conftest import Clocked
from tests.unit.gateway.limits.terms import TTL_MS, ask, scope

DAY_MS = 86_400_000


def granted(verdict: Verdict) -> bool:
    return verdict.refusal is None


@pytest.mark.parametrize("per_minute", [1, 7, 60, 61, 999_983])
def test_waiting_as_long_as_told_succeeds_and_a_millisecond_less_does_not(buckets: Clocked, per_minute: int) -> None:
    key = scope(requests_per_minute=per_minute, request_burst=1)
    assert buckets.use(ask(key))
    refused = buckets.reserve(ask(key)).refusal
    assert refused == Refusal("rate", "requests_per_minute", 0, -(-MINUTE_MS // per_minute))
    buckets.now += refused.wait_ms - 1
    assert not granted(buckets.reserve(ask(key)))
    buckets.now += 1
    assert granted(buckets.reserve(ask(key)))


@pytest.mark.parametrize(("per_minute", "burst", "tokens"), [(1000, 1000, 777), (7, 3, 2), (59_999, 100, 100)])
def test_the_wait_for_tokens_is_exact_too(buckets: Clocked, per_minute: int, burst: int, tokens: int) -> None:
    key = scope(tokens_per_minute=per_minute, token_burst=burst)
    assert buckets.use(ask(key, tokens=burst))
    refused = buckets.reserve(ask(key, tokens=tokens)).refusal
    assert refused is not None
    buckets.now += refused.wait_ms - 1
    assert not granted(buckets.reserve(ask(key, tokens=tokens)))
    buckets.now += 1
    assert granted(buckets.reserve(ask(key, tokens=tokens)))


def test_a_burst_comes_at_once_and_then_the_rate(buckets: Clocked) -> None:
    key = scope(requests_per_minute=60, request_burst=5)
    assert [granted(buckets.reserve(ask(key))) for _ in range(6)] == [True] * 5 + [False]
    buckets.now += 10_000
    assert [granted(buckets.reserve(ask(key))) for _ in range(6)] == [True] * 5 + [False]


def test_a_refusal_by_one_bucket_takes_nothing_from_the_others(buckets: Clocked) -> None:
    key, tenant = scope("key", requests_per_minute=2), scope("tenant", tokens_per_minute=100, tokens_per_day=1000)
    assert granted(buckets.reserve(ask(key, tenant, tokens=90)))
    for _ in range(5):
        refusal = buckets.reserve(ask(key, tenant, tokens=20)).refusal
        assert (refusal.limit, refusal.scope) == ("tokens_per_minute", 1) if refusal else False
    last = buckets.reserve(ask(key, tenant, tokens=10))
    assert granted(last)
    assert last.levels[0].requests == last.levels[1].tokens == 0


def test_more_than_the_bucket_ever_holds_is_refused_for_good(buckets: Clocked) -> None:
    key = scope(tokens_per_minute=100, token_burst=50, tokens_per_day=60, cost_per_month=10)
    assert granted(buckets.reserve(ask(key, tokens=50, cost=10)))
    for tokens, cost, limit in ((51, 0, "tokens_per_minute"), (1, 11, "cost_per_month")):
        assert buckets.reserve(ask(key, tokens=tokens, cost=cost)).refusal == Refusal("exceeds", limit, 0)


def test_what_was_not_used_is_given_back_and_never_more_than_the_bucket_holds(buckets: Clocked) -> None:
    key = scope(tokens_per_minute=100)
    asked = ask(key, tokens=80)
    buckets.reserve(asked)
    buckets.now += MINUTE_MS
    buckets.settle(asked, 0)
    assert buckets.reserve(ask(key, tokens=1)).levels[0].tokens == 99 * MINUTE_MS


def test_what_was_used_beyond_the_expectation_is_a_debt(buckets: Clocked) -> None:
    key = scope(tokens_per_minute=60)
    asked = ask(key, tokens=10)
    buckets.reserve(asked)
    buckets.settle(asked, 100)
    refusal = buckets.reserve(ask(key, tokens=1)).refusal
    assert refusal is not None
    assert refusal.wait_ms == 41_000


def test_settling_twice_changes_nothing(buckets: Clocked) -> None:
    key = scope(tokens_per_minute=100, requests_per_minute=10)
    asked = ask(key, tokens=50)
    buckets.reserve(asked)
    for _ in range(3):
        buckets.settle(asked, 20, refund_request=True)
    levels = buckets.reserve(ask(key, tokens=1)).levels[0]
    assert (levels.tokens, levels.requests) == (79 * MINUTE_MS, 9 * MINUTE_MS)


def test_a_refused_call_gets_its_request_back_and_one_that_ran_does_not(buckets: Clocked) -> None:
    key = scope(requests_per_minute=1)
    first = ask(key)
    buckets.reserve(first)
    buckets.settle(first, 0, refund_request=True)
    second = ask(key)
    assert granted(buckets.reserve(second))
    buckets.settle(second, 0)
    assert not granted(buckets.reserve(ask(key)))


def test_parallel_requests_are_bounded_and_a_place_is_free_at_once(buckets: Clocked) -> None:
    key = scope(concurrent_requests=2)
    first, second = ask(key), ask(key)
    assert granted(buckets.reserve(first))
    assert granted(buckets.reserve(second))
    assert buckets.reserve(ask(key)).refusal == Refusal("concurrency", "concurrent_requests", 0)
    buckets.settle(first, 1)
    assert granted(buckets.reserve(ask(key)))


def test_a_lease_that_nobody_prolonged_ends_and_its_tokens_come_back(buckets: Clocked) -> None:
    key = scope(concurrent_requests=1, tokens_per_day=100)
    lost = ask(key, tokens=90)
    buckets.reserve(lost)
    buckets.now += TTL_MS - 1
    assert not granted(buckets.reserve(ask(key, tokens=10)))
    buckets.now += 1
    assert granted(buckets.reserve(ask(key, tokens=100)))
    buckets.settle(lost, 90)
    refusal = buckets.reserve(ask(key, tokens=1)).refusal
    assert refusal == Refusal("quota", "tokens_per_day", 0)


@pytest.mark.parametrize("limit", ["tokens_per_day", "tokens_per_month", "cost_per_day", "cost_per_month"])
def test_a_quota_can_be_used_up_to_the_last_unit_and_no_further(buckets: Clocked, limit: str) -> None:
    key = scope(**{limit: 100})
    spent = ask(key, tokens=60, cost=60)
    buckets.reserve(spent)
    buckets.settle(spent, 70, 70)
    assert buckets.reserve(ask(key, tokens=31, cost=31)).refusal == Refusal("quota", limit, 0)  # type: ignore[arg-type]
    assert granted(buckets.reserve(ask(key, tokens=30, cost=30)))


@pytest.mark.parametrize("limit", ["tokens_per_day", "tokens_per_month"])
def test_a_quota_begins_anew_at_midnight_or_with_the_month(buckets: Clocked, limit: str) -> None:
    """The tests' clock starts a minute before the last day of March ends."""
    key = scope(**{limit: 100})
    assert buckets.use(ask(key, tokens=100))
    buckets.now += MINUTE_MS - 1
    assert not granted(buckets.reserve(ask(key, tokens=1)))
    buckets.now += 1
    assert granted(buckets.reserve(ask(key, tokens=100)))


def test_a_month_lasts_longer_than_a_day(buckets: Clocked) -> None:
    key = scope(tokens_per_month=100, tokens_per_day=60)
    buckets.now += MINUTE_MS
    assert buckets.use(ask(key, tokens=60))
    buckets.now += DAY_MS
    assert buckets.use(ask(key, tokens=40))
    buckets.now += DAY_MS
    assert buckets.reserve(ask(key, tokens=1)).refusal == Refusal("quota", "tokens_per_month", 0)


def test_a_request_counts_in_the_period_in_which_it_began(buckets: Clocked) -> None:
    key = scope(tokens_per_day=100)
    late = ask(key, tokens=50)
    buckets.reserve(late)
    buckets.now += MINUTE_MS
    assert granted(buckets.reserve(ask(key, tokens=99)))
    buckets.settle(late, 10)
    assert not granted(buckets.reserve(ask(key, tokens=2)))


def test_what_cannot_be_helped_by_waiting_is_told_first(buckets: Clocked) -> None:
    """Exceeds, quota, rate, concurrency; the key before the tenant; of the waits the longest."""
    key = scope("key", requests_per_minute=60, request_burst=1, concurrent_requests=1, tokens_per_day=500)
    tenant = scope("tenant", tokens_per_minute=600, token_burst=100, tokens_per_day=500, concurrent_requests=1)
    assert granted(buckets.reserve(ask(key, tenant, tokens=100)))
    assert buckets.reserve(ask(key, tenant, tokens=501)).refusal == Refusal("exceeds", "tokens_per_day", 0)
    assert buckets.reserve(ask(key, tenant, tokens=101)).refusal == Refusal("exceeds", "tokens_per_minute", 1)
    assert buckets.reserve(ask(key, tokens=401)).refusal == Refusal("quota", "tokens_per_day", 0)
    assert buckets.reserve(ask(key, tenant, tokens=90)).refusal == Refusal("rate", "tokens_per_minute", 1, 9000)
    assert buckets.reserve(ask(key, tenant, tokens=10)).refusal == Refusal("rate", "requests_per_minute", 0, 1000)
    buckets.now += 9000
    assert buckets.reserve(ask(key, tenant, tokens=90)).refusal == Refusal("concurrency", "concurrent_requests", 0)


def test_limits_that_were_lowered_hold_at_once(buckets: Clocked) -> None:
    assert granted(buckets.reserve(ask(scope(tokens_per_minute=1000), tokens=1)))
    lowered = scope(tokens_per_minute=10)
    assert buckets.reserve(ask(lowered, tokens=1)).levels[0].tokens == 9 * MINUTE_MS


def test_the_largest_limits_that_can_be_set_are_kept(buckets: Clocked) -> None:
    """10¹² tokens are more than a double's 53 bits in 60,000ths: off by less than a thousandth of a token."""
    key = scope(tokens_per_minute=10**12, requests_per_minute=10**9, cost_per_month=10**15)
    verdict = buckets.reserve(ask(key, tokens=10**11, cost=10**15))
    assert granted(verdict)
    assert abs(verdict.levels[0].tokens / MINUTE_MS - 9 * 10**11) < 0.001
    assert not granted(buckets.reserve(ask(key, tokens=1, cost=1)))


@given(
    st.integers(1, 50),
    st.integers(1, 20),
    st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 20)), max_size=60),
)
def test_no_stretch_of_time_gets_more_than_burst_and_rate(
    per_minute: int, burst: int, steps: list[tuple[int, int]]
) -> None:
    """The definition of the bucket, counted from the outside."""
    buckets, now, taken = Buckets(), 0, list[tuple[int, int]]()
    key = scope(tokens_per_minute=per_minute, token_burst=burst)
    for pause, tokens in steps:
        now += pause
        asked = ask(key, tokens=min(tokens, burst))
        if granted(buckets.reserve(asked, now, TTL_MS * 1000)):
            buckets.settle(Settlement(asked, asked.tokens, 0), now)
            taken.append((now, asked.tokens))
    for start in range(len(taken)):
        for end in range(start, len(taken)):
            allowed = burst * MINUTE_MS + (taken[end][0] - taken[start][0]) * per_minute
            assert sum(tokens for _, tokens in taken[start : end + 1]) * MINUTE_MS <= allowed


@given(st.datetimes(datetime(1971, 1, 1), datetime(2399, 12, 31)))
def test_months_follow_the_calendar(at: datetime) -> None:
    ms = int(at.replace(tzinfo=UTC).timestamp() * 1000)
    assert divmod(month_of(ms), 12) == (at.year, at.month - 1)


def test_forgotten_scopes_do_not_pile_up() -> None:
    buckets = Buckets(most=3)
    for number in range(10):
        buckets.reserve(ask(scope(tenant=f"t{number}", requests_per_minute=1)), 0, TTL_MS)
    assert granted(buckets.reserve(ask(scope(tenant="t0", requests_per_minute=1)), 0, TTL_MS))
    assert not granted(buckets.reserve(ask(scope(tenant="t9", requests_per_minute=1)), 0, TTL_MS))
