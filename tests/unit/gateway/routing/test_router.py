"""Leases on the backend, and the watch over it."""

import asyncio

import pytest
from prometheus_client import Gauge

from gateway.core.call import Call
from gateway.core.job import Backend
from gateway.core.limit import TimeLimit
from gateway.errors import BackendFailed, BackendLost, BackendTimeout, BackendUnavailable, GatewayError
from gateway.routing.health import Health, HealthSettings
from gateway.routing.router import Router
from tests.unit.gateway.waiting import until

BACKEND = Backend("b", "http://b")


class FakeProbe:
    def __init__(self) -> None:
        self.alive = True
        self.failure: GatewayError | None = None
        self.asked: list[str] = []

    async def ready(self, backend: Backend) -> None:
        await self._ask("ready")

    async def generate(self, backend: Backend) -> None:
        await self._ask("generate")

    async def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.failure:
            raise self.failure
        if not self.alive:
            raise BackendFailed(f"not {what}")


def new_router(probe: FakeProbe, **settings: float) -> tuple[Router, Health]:
    health = Health(HealthSettings(**settings))  # type: ignore[arg-type]
    return Router(BACKEND, health, probe, Gauge("up", "-", registry=None)), health


def new_call() -> Call:
    return Call(id="r", uid="u", route="/", limit=TimeLimit(60))


async def test_there_is_no_lease_before_a_token_was_generated() -> None:
    probe = FakeProbe()
    router, _ = new_router(probe)
    with pytest.raises(BackendUnavailable):
        async with router.lease(new_call()):
            pass
    await router.examine()
    assert probe.asked == ["ready", "generate"]
    async with router.lease(new_call()) as backend:
        assert backend is BACKEND


async def test_a_lost_connection_ends_the_leasing_and_hurries_the_next_probe() -> None:
    probe = FakeProbe()
    router, health = new_router(probe, probe_interval_s=1000, fast_probe_interval_s=1000)
    await router.examine()
    watch = asyncio.create_task(router.watch())
    await until(lambda: len(probe.asked) == 3)
    with pytest.raises(BackendLost):
        async with router.lease(new_call()):
            raise BackendLost("reset")
    assert not health.healthy
    async with asyncio.timeout(1):
        await watch


async def test_a_backend_that_says_it_is_dead_loses_its_leases_which_would_never_end() -> None:
    probe = FakeProbe()
    router, health = new_router(probe)
    await router.examine()
    begun = asyncio.Event()

    async def wait_for_ever() -> None:
        async with router.lease(new_call()):
            begun.set()
            await asyncio.Event().wait()

    waiting = asyncio.create_task(wait_for_ever())
    await begun.wait()
    probe.alive = False
    await router.examine()
    assert not waiting.done()
    await router.examine()
    assert not health.healthy
    with pytest.raises(BackendLost, match="not ready"):
        await waiting


async def test_a_silent_backend_keeps_its_leases() -> None:
    probe = FakeProbe()
    router, health = new_router(probe, failures=1)
    await router.examine()
    probe.failure = BackendTimeout("no answer")
    async with router.lease(new_call()):
        await router.examine()
        assert not health.healthy
        await asyncio.sleep(0)


async def test_an_error_of_the_backend_is_no_lost_connection() -> None:
    router, health = new_router(FakeProbe())
    await router.examine()
    with pytest.raises(BackendFailed):
        async with router.lease(new_call()):
            raise BackendFailed("bad prompt")
    assert health.healthy


async def test_no_test_token_while_real_ones_flow() -> None:
    probe = FakeProbe()
    router, _ = new_router(probe, generation_interval_s=1e-9)
    await router.examine()
    await router.examine()
    assert probe.asked.count("generate") == 2
    probe = FakeProbe()
    router, _ = new_router(probe, generation_interval_s=1000)
    await router.examine()
    call = new_call()
    async with router.lease(call):
        call.saw_tokens(1)
        await router.examine()
    await router.examine()
    assert probe.asked.count("generate") == 1


async def test_probes_that_fail_in_a_row_end_the_leasing() -> None:
    probe = FakeProbe()
    router, health = new_router(probe)
    await router.examine()
    probe.alive = False
    await router.examine()
    assert health.healthy
    await router.examine()
    assert (health.verdict, health.reason) == ("unhealthy", "not ready")
