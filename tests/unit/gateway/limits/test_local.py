"""Limits of one process alone, each gateway with its part."""

from gateway.limits.local import Local
from gateway.limits.terms import MINUTE_MS, Settlement
from tests.unit.gateway.limits.terms import ask, scope


def test_each_of_the_replicas_has_its_part() -> None:
    local = Local(replicas=4, clock=lambda: 1000.0)
    key = scope(requests_per_minute=10, concurrent_requests=100)
    assert [local.reserve(ask(key)).refusal is None for _ in range(3)] == [True, True, False]


def test_nobody_is_left_without_anything() -> None:
    local = Local(replicas=10, clock=lambda: 1000.0)
    key = scope(requests_per_minute=1, concurrent_requests=1, tokens_per_day=5)
    assert local.reserve(ask(key)).refusal is None


def test_what_fits_the_whole_limit_is_not_refused_for_good_by_its_part() -> None:
    now = [1000.0]
    local = Local(replicas=4, clock=lambda: now[0])
    key = scope(tokens_per_minute=100, concurrent_requests=10)
    large = ask(key, tokens=90)
    assert local.reserve(large).refusal is None
    local.settle(Settlement(large, 90, 0))
    refusal = local.reserve(ask(key, tokens=1)).refusal
    assert refusal is not None
    assert refusal.wait_ms == -(-66 * MINUTE_MS // 25)
    now[0] += refusal.wait_ms / 1000
    assert local.reserve(ask(key, tokens=1)).refusal is None


def test_what_does_not_fit_the_whole_limit_is_refused_for_good() -> None:
    refusal = Local(replicas=4, clock=lambda: 1000.0).reserve(ask(scope(tokens_per_minute=100), tokens=101)).refusal
    assert refusal is not None
    assert refusal.kind == "exceeds"


def test_a_long_request_keeps_its_place() -> None:
    now = [1000.0]
    local = Local(replicas=1, clock=lambda: now[0])
    key = scope(concurrent_requests=1)
    first = ask(key)
    local.reserve(first)
    now[0] += 7200
    assert local.reserve(ask(key)).refusal is not None
    local.settle(Settlement(first, 1, 0))
    assert local.reserve(ask(key)).refusal is None
