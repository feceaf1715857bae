"""A client of the fake Triton."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from gateway.triton.client import TritonClient
from gateway.triton.settings import TritonSettings


@pytest.fixture
async def client() -> AsyncIterator[TritonClient]:
    async with aiohttp.ClientSession() as session:
        yield TritonClient(session, TritonSettings())
