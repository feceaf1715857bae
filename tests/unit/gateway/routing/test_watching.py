"""The watch over backends: what ends the leases that they have, and what does not."""

import asyncio

import pytest

from gateway.errors import (
    BackendLost,
    BackendTimeout,
)
from tests.unit.gateway.routing.fakes import Pool, fail, new_call, where
from tests.unit.gateway.waiting import until


async def test_a_lost_connection_ends_the_leasing_and_hurries_the_next_probe() -> None:
    pool = Pool("a", probe_interval_s=1000, fast_probe_interval_s=1000)
    router = await pool.start()
    (member,) = router
    watch = asyncio.create_task(member.watch())
    await until(lambda: len(pool.probe.asked) == 3)
    await fail(router, BackendLost("reset"))
    assert router.problem == "reset"
    async with asyncio.timeout(1):
        await watch


async def test_a_backend_that_says_it_is_dead_loses_its_leases_which_would_never_end() -> None:
    pool = Pool("a", "b")
    router = await pool.start()
    begun: list[str] = []

    async def wait_for_ever() -> None:
        async with router.lease(new_call()) as backend:
            begun.append(backend.name)
            await asyncio.Event().wait()

    waiting = [asyncio.create_task(wait_for_ever()) for _ in range(2)]
    await until(lambda: len(begun) == 2)
    pool.probe.kill("a")
    await router.examine()
    assert not any(task.done() for task in waiting)
    await router.examine()
    lost = waiting[begun.index("a")]
    with pytest.raises(BackendLost, match="a died: the engine is dead"):
        await lost
    assert [task for task in waiting if task is not lost and not task.done()]
    assert {await where(router) for _ in range(4)} == {"b"}
    waiting[begun.index("b")].cancel()


async def test_after_a_lost_connection_the_others_are_given_up_when_a_probe_says_that_it_is_dead() -> None:
    pool = Pool("a")
    router = await pool.start()
    with pytest.raises(BackendLost, match="died"):
        async with router.lease(new_call()):
            await fail(router, BackendLost("reset"))
            await asyncio.sleep(0)
            pool.probe.kill("a")
            await router.examine()
            await asyncio.Event().wait()


async def test_a_silent_backend_keeps_its_leases_for_a_while_and_not_for_ever() -> None:
    pool = Pool("a", failures=1, hung_s=10)
    router = await pool.start()
    pool.probe.failures["a"] = BackendTimeout("no answer")
    with pytest.raises(BackendLost):
        async with router.lease(new_call()):
            pool.clock.now += 9
            await router.examine()
            assert router.problem == "no answer"
            await asyncio.sleep(0)
            pool.clock.now += 1
            await router.examine()
            await asyncio.Event().wait()


async def test_a_silent_backend_whose_tokens_still_come_keeps_its_leases() -> None:
    pool = Pool("a", failures=1, hung_s=10)
    router = await pool.start()
    pool.probe.failures["a"] = BackendTimeout("no answer")
    call = new_call()
    async with router.lease(call):
        pool.clock.now += 30
        call.saw_tokens(1)
        call.last_token_at = pool.clock.now - 1
        await router.examine()
        await asyncio.sleep(0)


@pytest.mark.parametrize("hung_s", [10, 60])
async def test_an_engine_that_says_it_is_ready_and_generates_nothing_is_found_and_loses_what_it_has(
    hung_s: float,
) -> None:
    pool = Pool("a", generation_interval_s=30, hung_s=hung_s)
    router = await pool.start()
    began = pool.clock.now

    async def no_token(_: object) -> None:
        pool.clock.now += 30
        raise BackendTimeout("no token came")

    pool.probe.generate = no_token  # type: ignore[method-assign]
    with pytest.raises(BackendLost, match="a died: no token came"):
        async with router.lease(new_call()):
            for _ in range(20):
                pool.clock.now += 2
                await router.examine()
                await asyncio.sleep(0)
    assert pool.clock.now - began <= 95


async def test_no_test_token_while_real_ones_flow() -> None:
    pool = Pool("a", generation_interval_s=30)
    router = await pool.start()
    pool.clock.now += 29
    call = new_call()
    async with router.lease(call):
        call.last_token_at = pool.clock.now
    pool.clock.now += 29
    await router.examine()
    assert pool.probe.questions("generate") == 1
    pool.clock.now += 1
    await router.examine()
    assert pool.probe.questions("generate") == 2


async def test_a_test_token_that_waits_behind_real_ones_is_no_failure() -> None:
    pool = Pool("a", generation_interval_s=30, failures=1)
    router = await pool.start()
    pool.clock.now += 30

    class Busy(BackendTimeout):
        pass

    call = new_call()
    async with router.lease(call):

        async def generate(_: object) -> None:
            call.last_token_at = pool.clock.now
            raise Busy("the queue is long")

        pool.probe.generate = generate  # type: ignore[method-assign,assignment]
        await router.examine()
    assert router.problem is None
