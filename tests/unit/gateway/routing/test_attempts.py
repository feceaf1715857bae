"""What is tried again, where, and how often."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.job import Backend
from gateway.errors import (
    BackendFailed,
    BackendLost,
    BackendTimeout,
    BackendUnavailable,
    ClientGone,
    DeadlineExceeded,
    GatewayError,
    InvalidRequest,
)
from gateway.routing.attempts import Attempts, RetryBudget
from tests.unit.gateway.routing.fakes import Pool, new_call


class Work:
    """Fails as it is told, in order, then succeeds. `sees`: tokens come before a failure."""

    def __init__(self, *failures: BaseException, sees: bool = False) -> None:
        self.failures = list(failures)
        self.sees = sees
        self.call = new_call()
        self.backends: list[str] = []

    async def __call__(self, backend: Backend) -> None:
        self.backends.append(backend.name)
        if self.failures:
            if self.sees:
                self.call.saw_tokens(0)
            raise self.failures.pop(0)


async def attempts(pool: Pool) -> Attempts:
    await pool.start()
    return Attempts(pool.router, pool.settings, pool.metrics.retries, random_share=lambda: 0.0)


def leases(pool: Pool) -> int:
    return sum(member.in_flight for member in pool.router)


@pytest.mark.parametrize(
    "error", [BackendFailed("x"), BackendLost("x"), BackendTimeout("x"), BackendUnavailable("x")], ids=repr
)
async def test_what_fails_before_the_first_token_is_served_by_another_backend(error: GatewayError) -> None:
    pool, work = Pool("a", "b"), Work(error)
    await (await attempts(pool)).run(work.call, work)
    assert sorted(work.backends) == ["a", "b"]
    assert work.call.backend == work.backends[1]
    assert leases(pool) == 0
    assert pool.sample("retries_total", outcome="made") == 1


async def test_a_retry_waits_for_a_random_part_of_the_pause_and_a_first_attempt_for_nothing() -> None:
    pool, shares = Pool("a", "b", retry_pause_s=0.02), [0.5]
    await pool.start()
    several = Attempts(pool.router, pool.settings, pool.metrics.retries, random_share=shares.pop)
    await several.run(new_call(), Work())
    assert shares == [0.5]
    began = time.monotonic()
    await several.run(new_call(), Work(BackendLost("x")))
    assert shares == []
    assert time.monotonic() - began >= 0.009


@pytest.mark.parametrize(
    ("error", "sees"),
    [
        (BackendLost("x"), True),
        (InvalidRequest("x"), False),
        (ClientGone("x"), False),
        (DeadlineExceeded("x"), False),
        (BackendFailed("x", code="engine_abort"), False),
        (asyncio.CancelledError(), False),
        (RuntimeError("bug"), False),
    ],
    ids=repr,
)
async def test_nothing_else_is_tried_again(error: BaseException, sees: bool) -> None:
    pool, work = Pool("a", "b"), Work(error, sees=sees)
    with pytest.raises(type(error)):
        await (await attempts(pool)).run(work.call, work)
    assert len(work.backends) == 1
    assert leases(pool) == 0


async def test_a_request_is_tried_on_so_many_backends_and_the_first_failure_is_told() -> None:
    pool, work = Pool("a", "b", "c", "d", attempts=3), Work(BackendFailed("first"), *[BackendFailed("later")] * 9)
    with pytest.raises(BackendFailed, match="first"):
        await (await attempts(pool)).run(work.call, work)
    assert len(set(work.backends)) == len(work.backends) == 3
    assert leases(pool) == 0


async def test_without_another_backend_the_failure_itself_is_told() -> None:
    pool, work = Pool("a"), Work(BackendLost("the connection failed"))
    with pytest.raises(BackendLost, match="the connection failed"):
        await (await attempts(pool)).run(work.call, work)
    with pytest.raises(BackendUnavailable, match="the connection failed"):
        await (await attempts_again(pool)).run(work.call, work)
    assert work.backends == ["a"]


async def attempts_again(pool: Pool) -> Attempts:
    """Without asking how the backends are."""
    return Attempts(pool.router, pool.settings, pool.metrics.retries)


async def test_retries_end_where_the_budget_does() -> None:
    pool = Pool("a", "b", retry_burst=2, retry_share=0.0, max_ejected=0.0)
    trying = await attempts(pool)
    for number in range(4):
        work = Work(BackendFailed("x"))
        if number < 2:
            await trying.run(work.call, work)
        else:
            with pytest.raises(BackendFailed):
                await trying.run(work.call, work)
    assert pool.sample("retries_total", outcome="over_budget") == 2


@given(st.lists(st.booleans(), max_size=300), st.floats(0, 1), st.integers(0, 20))
def test_there_are_never_more_retries_than_their_share_and_what_was_saved(
    wants: list[bool], share: float, burst: int
) -> None:
    budget, spent = RetryBudget(share, burst), 0
    for number, wanted in enumerate(wants, 1):
        budget.earn()
        spent += wanted and budget.spend()
        assert spent <= burst + share * number + 1e-6
