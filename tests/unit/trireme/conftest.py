"""Commands against a real, empty Valkey."""

from collections.abc import Callable

import pytest
from redis import Redis
from typer.testing import CliRunner, Result

from trireme.cli import app
from trireme.errors import TriremeError

Run = Callable[..., Result]


@pytest.fixture
def redis(valkey_url: str) -> Redis:
    client = Redis.from_url(valkey_url)
    client.flushdb()
    return client


@pytest.fixture
def run(valkey_url: str, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`trireme` with these arguments, which must succeed or raise TriremeError."""
    monkeypatch.setenv("TRIREME_VALKEY_URL", valkey_url)
    monkeypatch.setenv("COLUMNS", "240")

    def run(*arguments: str) -> Result:
        result = CliRunner().invoke(app, arguments)
        if isinstance(result.exception, TriremeError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result

    return run
