"""The shared connection to a real Valkey."""

from collections.abc import AsyncIterator

import pytest
from prometheus_client import Gauge
from redis.asyncio import Redis

from gateway.telemetry.tasks import Tasks
from gateway.valkey.connection import Valkey, ValkeySettings
from gateway.valkey.wire import Wire
from tests.unit.gateway.valkey.addresses import url_of


@pytest.fixture
def degraded() -> Gauge:
    return Gauge("degraded", "", registry=None)


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    tasks = Tasks()
    yield tasks
    await tasks.close(1)


@pytest.fixture
async def wire(redis: Redis) -> AsyncIterator[Wire]:
    wire = Wire.to(url_of(redis))
    yield wire
    wire.drop()


@pytest.fixture
def valkey(wire: Wire, degraded: Gauge) -> Valkey:
    """Patient: a slow test machine is not what these tests are about."""
    return Valkey(wire, ValkeySettings(call_timeout_s=2.0), degraded)
