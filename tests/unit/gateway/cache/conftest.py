"""Gateways of these tests hang up when their test ends."""

from collections.abc import AsyncIterator

import pytest

from tests.unit.gateway.cache.caching import WIRES


@pytest.fixture(autouse=True)
async def hanging_up() -> AsyncIterator[None]:
    yield
    while WIRES:
        WIRES.pop().drop()
