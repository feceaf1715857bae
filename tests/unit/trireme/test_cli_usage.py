"""`trireme usage`: what it prints, and how it says that it cannot."""

import asyncio
import json
from pathlib import Path

import pytest
from redis.asyncio import Redis
from typer.testing import CliRunner

from trireme.claims import free_ports
from trireme.cli import app
from trireme.cli_usage import currency_of
from trireme.errors import TriremeError
from trireme.stack import isolated_settings

FIELD = '["acme","key_1","tiny",{ok}]{name}'
SUMS = {("true", "requests"): 3, ("false", "requests"): 1, ("true", "prompt"): 120, ("true", "price"): 1_500_000_000,
        ("true", "hits"): 2, ("true", "spared"): 40, ("true", "spared_price"): 500_000_000}  # fmt: skip


@pytest.fixture
def ledger(valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One tenant's sums of one day, in the Valkey that the command reads."""
    monkeypatch.setenv("TRIREME_VALKEY_URL", valkey_url)
    asyncio.run(fill(valkey_url))


async def fill(url: str) -> None:
    async with Redis.from_url(url) as redis:
        await redis.flushdb()
        for (ok, name), number in SUMS.items():
            await redis.hset("trireme:{ledger}:usage:2026-06-01", FIELD.format(ok=ok, name=name), number)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["usage", "--since", "2026-06-01", "--until", "2026-06-30", *arguments])
    if result.exception is not None:
        raise result.exception
    return result.stdout


@pytest.mark.usefixtures("ledger")
def test_a_table_for_people() -> None:
    header, row = run("--by", "key").splitlines()
    titles = "key requests succeeded prompt cached completion USD hits spared saved"
    assert header.split() == titles.split()
    assert row.split() == ["key_1", "4", "3", "120", "0", "0", "1.5", "2", "40", "0.5"]


@pytest.mark.usefixtures("ledger")
def test_json_for_programs() -> None:
    [row] = json.loads(run("--json"))
    assert row == {
        "name": "acme", "requests": 4, "succeeded": 3, "prompt": 120, "cached": 0, "completion": 0, "price": 1.5,
        "hits": 2, "spared": 40, "spared_price": 0.5, "currency": "USD",
    }  # fmt: skip


@pytest.mark.usefixtures("ledger")
def test_csv_for_spreadsheets() -> None:
    assert run("--by", "model", "--csv").splitlines()[1] == "tiny,4,3,120,0,0,1.5,USD,2,40,0.5"


@pytest.mark.usefixtures("ledger")
def test_another_tenant_has_no_rows() -> None:
    assert json.loads(run("--json", "--tenant", "nobody")) == []


@pytest.mark.parametrize("arguments", [("--json", "--csv"), ("--since", "2026-07-01"), ("--since", "2020-01-01")])
def test_a_question_that_makes_no_sense_is_a_sentence(arguments: tuple[str, ...]) -> None:
    with pytest.raises(TriremeError):
        run(*arguments)


def test_a_valkey_that_is_away_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    monkeypatch.setenv("TRIREME_VALKEY_URL", f"redis://user:secret@{address}/0")
    with pytest.raises(TriremeError, match="does not answer") as raised:
        run()
    assert "secret" not in str(raised.value)


def test_the_currency_is_the_gateways(tmp_path: Path) -> None:
    settings = isolated_settings(tmp_path, gateway={"accounting": {"currency": "EUR"}})
    assert currency_of(settings, {}) == "EUR"
    assert currency_of(settings, {"TRIREME_CURRENCY": "GBP"}) == "GBP"
    assert currency_of(isolated_settings(tmp_path, gateway={}), {}) == "USD"
