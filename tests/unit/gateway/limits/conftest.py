"""The two implementations of the algorithm, so that what is promised is promised of both."""

from collections.abc import Callable, Iterator
from typing import Protocol

import pytest
from redis import Redis

from gateway.limits.buckets import Buckets
from gateway.limits.terms import Ask, Settlement, Verdict
from tests.unit.gateway.limits.terms import BEFORE_MONTH_END, TTL_MS, ScriptedBuckets


class Either(Protocol):
    def reserve(self, asked: Ask, now: int, ttl_ms: int, /) -> Verdict: ...

    def settle(self, done: Settlement, now: int, /) -> None: ...


class Clocked:
    """Buckets at a time of the test's choosing."""

    def __init__(self, buckets: Either) -> None:
        self._buckets = buckets
        self.now = BEFORE_MONTH_END

    def reserve(self, asked: Ask) -> Verdict:
        return self._buckets.reserve(asked, self.now, TTL_MS)

    def use(self, asked: Ask) -> bool:
        """Reserve and use exactly that, if it is granted."""
        if self.reserve(asked).refusal is not None:
            return False
        self.settle(asked, asked.tokens, asked.cost)
        return True

    def settle(self, asked: Ask, tokens: int, cost: int = 0, *, refund_request: bool = False) -> None:
        self._buckets.settle(Settlement(asked, tokens, cost, refund_request), self.now)


@pytest.fixture
def valkey(valkey_url: str) -> Iterator[Redis]:
    with Redis.from_url(valkey_url) as client:
        client.flushdb()
        yield client


@pytest.fixture(params=["script", "model"])
def buckets(request: pytest.FixtureRequest) -> Clocked:
    makers: dict[str, Callable[[], Either]] = {
        "script": lambda: ScriptedBuckets(request.getfixturevalue("valkey")),
        "model": Buckets,
    }
    return Clocked(makers[request.param]())
