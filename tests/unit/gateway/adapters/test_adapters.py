"""The registry on a real Valkey: followed, changed by several gateways, written back when it was lost."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gateway.adapters.adapters import Adapters
from gateway.adapters.settings import AdapterSettings
from gateway.adapters.storage import KEY, adapter_registry
from gateway.core.call import Model
from gateway.core.identity import Limits
from gateway.errors import Conflict, InvalidRequest, NotFound
from gateway.routing.models import Models
from gateway.telemetry.metrics import Metrics
from tests.support.adapters import write_adapter

TINY = Model("tiny", "generate", 256, 0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in (1, 2):
        write_adapter(tmp_path / "root" / "pirate" / str(number), number)
    return tmp_path / "root"


@pytest.fixture
def new_gateway(redis: Redis, root: Path, model_dir: Path) -> "type[Adapters]":
    def make() -> Adapters:
        settings = AdapterSettings(adapters_dir=root, refresh_s=30.0)
        return Adapters(adapter_registry(redis, 5.0), settings, Models([TINY]), {"tiny": model_dir}, Metrics())

    return make  # type: ignore[return-value]


@pytest.fixture
async def adapters(new_gateway: "type[Adapters]") -> AsyncIterator[Adapters]:
    yield new_gateway()  # type: ignore[call-arg]


async def test_an_adapter_is_found_by_its_name_once_it_was_added(adapters: Adapters) -> None:
    assert adapters.find("pirate") is None
    record = await adapters.add("pirate", "1", limits=Limits(requests_per_minute=2))
    model = adapters.find("pirate")
    assert model is not None
    assert (model.name, model.base, model.limits.requests_per_minute) == ("pirate", "tiny", 2)
    assert model.adapter is not None
    assert (model.adapter.path, model.adapter.checksum) == ("pirate/1", record.get("1").checksum)
    assert [one.name for one in adapters] == ["pirate"]


async def test_promoting_changes_what_the_name_means_and_not_what_somebody_holds(adapters: Adapters) -> None:
    await adapters.add("pirate", "1")
    held = adapters.find("pirate")
    await adapters.add("pirate", "2")
    assert adapters.find("pirate") == held
    await adapters.promote("pirate", "2")
    now = adapters.find("pirate")
    assert now is not None and now.adapter is not None and now.adapter.revision == "2"
    assert held is not None and held.adapter is not None and held.adapter.revision == "1"
    assert adapters.retired == {held.adapter.checksum}
    await adapters.promote("pirate", "1")
    assert adapters.retired == {now.adapter.checksum}


async def test_a_removed_one_is_gone_at_once_and_engines_may_forget_it(adapters: Adapters) -> None:
    record = await adapters.add("pirate", "1")
    assert await adapters.remove("pirate") == record
    assert adapters.find("pirate") is adapters.find("pirate@1") is None
    assert adapters.retired == {record.get("1").checksum}
    with pytest.raises(NotFound):
        await adapters.remove("pirate")


async def test_names_of_models_and_files_that_do_not_fit_are_refused(adapters: Adapters, root: Path) -> None:
    with pytest.raises(Conflict, match="name of a model"):
        await adapters.add("tiny", "1")
    with pytest.raises(InvalidRequest, match="holds no adapter_config"):
        (root / "empty").mkdir()
        await adapters.add("pirate", "1", path="empty")
    with pytest.raises(InvalidRequest, match="the files have the checksum sha256:"):
        await adapters.add("pirate", "1", checksum="sha256:0")
    with pytest.raises(InvalidRequest, match="no model 'huge'"):
        await adapters.add("pirate", "1", base="huge")
    write_adapter(root / "wide", shapes={"model.layers.0.self_attn.q_proj": (8, 8)})
    with pytest.raises(InvalidRequest, match="hidden size of 8"):
        await adapters.add("pirate", "1", path="wide")
    assert list(adapters) == []


async def test_other_gateways_hear_of_changes_at_once(
    adapters: Adapters, new_gateway: "type[Adapters]", soon: "type[asyncio.Timeout]"
) -> None:
    other: Adapters = new_gateway()  # type: ignore[call-arg]
    following = asyncio.create_task(other.follow())
    await asyncio.sleep(0.1)
    other.changed.clear()
    await adapters.add("pirate", "1")
    async with soon():  # type: ignore[call-arg]
        await other.changed.wait()
    assert other.find("pirate") == adapters.find("pirate")
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_gateways_that_change_it_at_the_same_time_lose_nothing(
    adapters: Adapters, new_gateway: "type[Adapters]"
) -> None:
    other: Adapters = new_gateway()  # type: ignore[call-arg]
    await asyncio.gather(adapters.add("a", "1", path="pirate/1"), other.add("b", "1", path="pirate/2"))
    await adapters.change("a", pinned=True)
    assert {record.name: record.pinned for record in adapters.registry.adapters} == {"a": True, "b": False}


async def test_what_valkey_lost_is_written_back_and_nonsense_is_not_taken(adapters: Adapters, redis: Redis) -> None:
    await adapters.add("pirate", "1")
    before = await redis.get(KEY)
    await redis.delete(KEY)
    await adapters._document.refresh()
    assert await redis.get(KEY) == before
    await redis.set(KEY, json.dumps({"version": 99, "adapters": "none"}))
    await adapters._document.refresh()
    assert adapters.find("pirate") is not None
