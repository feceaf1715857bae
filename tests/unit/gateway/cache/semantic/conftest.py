"""The same questions, found in the gateway and on a server that searches."""

import os
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from tests.support.search_server import SearchServer

# Of a Redis 8, a Redis Stack or a Valkey with valkey-search, whose first database may be emptied: it is tested instead
# of the one that stands in for it.
REAL = "TEST_SEARCH_URL"


@pytest.fixture(scope="session")
def stand_in(valkey_url: str) -> Iterator[SearchServer]:
    with SearchServer(valkey_url) as server:
        yield server


@pytest.fixture
def search_server(stand_in: SearchServer) -> SearchServer:
    """Always the one that stands in: it tells what it was asked, and fails when told to."""
    stand_in.begin()
    return stand_in


@pytest.fixture(params=["local", "server"])
def where(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(where: str, valkey_url: str, search_server: SearchServer) -> str:
    return valkey_url if where == "local" else os.environ.get(REAL, search_server.url)


@pytest.fixture
async def redis(url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(url) as client:
        await client.flushdb()
        yield client
