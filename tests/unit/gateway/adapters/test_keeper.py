"""What engines are told, until what they report is what is wanted."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gateway.adapters.adapters import Adapters
from gateway.adapters.keeper import Keeper, orders_for, pins_of
from gateway.adapters.registry import AdapterRecord, Registry, Revision
from gateway.adapters.settings import AdapterSettings
from gateway.adapters.storage import adapter_registry
from gateway.core.call import Model
from gateway.core.job import Backend, Shelf
from gateway.errors import BackendFailed
from gateway.routing.models import Models
from gateway.telemetry.metrics import Metrics
from python_backends.messages import Adapter, Control
from tests.support.adapters import write_adapter

PIN = {"new": Adapter(path="pirate/2", checksum="new")}


def shelf(loaded: str = "", pinned: str = "") -> Shelf:
    return Shelf(places=4, loaded=frozenset(loaded.split()), pinned=frozenset(pinned.split()))


def orders(found: Shelf, known: str = "new old", retired: str = "") -> list[Control]:
    return list(orders_for(found, PIN, set(known.split()), set(retired.split())))


def test_what_is_missing_is_pinned_and_nothing_is_said_twice() -> None:
    assert orders(shelf()) == [Control(control="pin", adapter=PIN["new"])]
    assert orders(shelf("new", "new")) == []


def test_a_retired_revision_is_unloaded_before_the_new_one_is_pinned() -> None:
    assert orders(shelf("old", "old"), retired="old") == [
        Control(control="unload", checksum="old"),
        Control(control="pin", adapter=PIN["new"]),
    ]


def test_what_is_known_and_not_pinned_any_more_is_unpinned_and_strangers_are_left_alone() -> None:
    assert orders(shelf("new old stranger", "new old stranger")) == [Control(control="unpin", checksum="old")]


def test_only_the_current_revision_of_a_pinned_adapter_is_kept() -> None:
    revisions = tuple(
        Revision(revision=name, path=f"p/{name}", checksum=name, rank=1, bytes=1, created_at=0) for name in ("1", "2")
    )
    pinned = AdapterRecord(name="p", base="tiny", current="2", revisions=revisions, pinned=True)
    loose = AdapterRecord(name="q", base="tiny", current="1", revisions=revisions)
    assert pins_of(Registry(adapters=(pinned, loose))) == {"2": Adapter(path="p/2", checksum="2")}


class Engine:
    """One. `there`: whether it is healthy, `full`: then it takes no orders; `orders`: those that it took."""

    def __init__(self) -> None:
        self.there = True
        self.full = False
        self.shelf = shelf()
        self.orders: list[tuple[str, str | None]] = []

    def __call__(self) -> Iterator[tuple[Backend, Shelf]]:
        return iter([(Backend("a", "http://a"), self.shelf)] if self.there else [])

    async def send(self, backend: Backend, control: Control) -> None:
        if self.full:
            raise BackendFailed("no room")
        self.orders.append((control.control, control.checksum))


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def adapters(redis: Redis, tmp_path: Path, model_dir: Path, metrics: Metrics) -> Adapters:
    """One, in two revisions, of which the first is current."""
    models, settings = Models([Model("tiny", "generate", 256, 0)]), AdapterSettings(adapters_dir=tmp_path)
    adapters = Adapters(adapter_registry(redis, 5.0), settings, models, {"tiny": model_dir}, metrics)
    for number in (1, 2):
        write_adapter(tmp_path / "pirate" / str(number), number)
        await adapters.add("pirate", str(number))
    return adapters


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def keeper(adapters: Adapters, engine: Engine, metrics: Metrics) -> Keeper:
    return Keeper(adapters, engine, engine, metrics.adapter_orders, 5.0)


async def test_a_retired_revision_that_somebody_asks_for_is_unloaded_only_once(
    adapters: Adapters, engine: Engine, keeper: Keeper
) -> None:
    old = adapters.registry.get("pirate").get("1").checksum
    engine.shelf = shelf(old)
    await adapters.promote("pirate", "2")
    engine.full = True
    await keeper.settle()
    engine.full = False
    for _ in range(3):
        await keeper.settle()
    assert engine.orders == [("unload", old)]
    await adapters.promote("pirate", "1")
    await keeper.settle()
    await adapters.promote("pirate", "2")
    await keeper.settle()
    assert engine.orders == [("unload", old)] * 2


async def test_a_failure_is_told_once_for_as_long_as_it_lasts(
    adapters: Adapters, engine: Engine, keeper: Keeper, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    await adapters.change("pirate", pinned=True)
    engine.full = True
    told = []
    for engine.there in (True, True, False, True):
        await keeper.settle()
        told.append(caplog.text.count("no room"))
    assert told == [1, 1, 1, 2]
    failed = {"action": "pin", "outcome": "failed"}
    assert metrics.registry.get_sample_value("trireme_adapter_orders_total", failed) == 3
