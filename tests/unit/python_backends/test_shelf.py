"""Adapters in an engine's memory: loaded once, bounded, never taken from a request; a bad one is its own affair."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from python_backends.adapters.inspection import Base
from python_backends.llm.engine import AdapterUnavailableError, EngineError, LoadedAdapter
from python_backends.llm.shelf import Shelf, ShelfSettings
from python_backends.messages import Adapter, Control
from tests.support.adapters import write_adapter

NAMES = ("a", "b", "c", "d")
PLACES = 2


class Engine:
    """Remembers what it was told; `held` keeps loads from ending."""

    def __init__(self) -> None:
        self.loaded: dict[int, str] = {}
        self.numbers: list[int] = []
        self.most = 0
        self.fails = False
        self.free = asyncio.Event()
        self.free.set()

    async def load_adapter(self, adapter: LoadedAdapter) -> None:
        await self.free.wait()
        if self.fails:
            raise AdapterUnavailableError("the engine refuses this adapter")
        self.loaded[adapter.number] = adapter.name.partition("@")[0]
        self.numbers.append(adapter.number)
        self.most = max(self.most, len(self.loaded))

    async def unload_adapter(self, adapter: LoadedAdapter) -> None:
        del self.loaded[adapter.number]

    @property
    def names(self) -> list[str]:
        return sorted(self.loaded.values())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        write_adapter(tmp_path / name, number)
    return tmp_path


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    yield Engine()


@pytest.fixture
def shelf(engine: Engine, root: Path) -> Shelf:
    ticks = iter(range(10**6))
    return Shelf(engine, ShelfSettings(root, PLACES), Base(4, None), clock=lambda: float(next(ticks)))


async def use(shelf: Shelf, *names: str) -> None:
    for name in names:
        async with shelf.hold(Adapter(path=name)):
            pass


def checksum_of(shelf: Shelf, name: str) -> str:
    (found,) = [one.checksum for one in shelf._books.values() if one.adapter.name.startswith(f"{name}@")]
    return found


async def test_an_adapter_is_loaded_at_its_first_use_and_once_for_all_who_wait(shelf: Shelf, engine: Engine) -> None:
    assert engine.names == []
    await asyncio.gather(*(use(shelf, "a") for _ in range(5)))
    assert engine.numbers == [1]
    assert shelf.state().loads == 1


async def test_the_one_not_asked_for_longest_leaves_and_no_number_is_given_twice(shelf: Shelf, engine: Engine) -> None:
    await use(shelf, "a", "b", "a", "c")
    assert engine.names == ["a", "c"]
    await use(shelf, "b", "a")
    assert len(set(engine.numbers)) == len(engine.numbers) == 5
    assert engine.most <= PLACES
    assert shelf.state().evictions == 3


async def test_one_that_is_in_use_is_never_taken_away(shelf: Shelf, engine: Engine) -> None:
    async with shelf.hold(Adapter(path="a")), AsyncExitStack() as second:
        await second.enter_async_context(shelf.hold(Adapter(path="b")))
        waiting = asyncio.create_task(use(shelf, "c"))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        assert engine.names == ["a", "b"]
        await second.aclose()
        await waiting
        assert engine.names == ["a", "c"]


async def test_whoever_gives_up_waiting_leaves_nothing_behind(shelf: Shelf, engine: Engine) -> None:
    engine.free.clear()
    impatient, patient = asyncio.create_task(use(shelf, "a")), asyncio.create_task(use(shelf, "a"))
    await asyncio.sleep(0.05)
    impatient.cancel()
    await asyncio.gather(impatient, return_exceptions=True)
    engine.free.set()
    await patient
    await use(shelf, "b", "c")
    assert engine.names == ["b", "c"]


async def test_a_bad_one_fails_for_those_who_asked_for_it_and_may_work_later(
    shelf: Shelf, engine: Engine, root: Path
) -> None:
    config = root / "a" / "adapter_config.json"
    good = config.read_text()
    config.write_text("{}")
    failures = await asyncio.gather(use(shelf, "a"), use(shelf, "a"), use(shelf, "b"), return_exceptions=True)
    assert [isinstance(one, AdapterUnavailableError) for one in failures] == [True, True, False]
    engine.fails = True
    with pytest.raises(AdapterUnavailableError):
        await use(shelf, "c")
    engine.fails = False
    config.write_text(good)
    await use(shelf, "a")
    assert engine.names == ["a", "b"]
    assert shelf.state().failures == 2


async def test_files_that_are_not_those_that_were_registered_are_not_loaded(shelf: Shelf, root: Path) -> None:
    await use(shelf, "a")
    checksum = checksum_of(shelf, "a")
    await shelf.obey(Control(control="unload", checksum=checksum))
    write_adapter(root / "a", 99)
    with pytest.raises(AdapterUnavailableError, match="not those that were registered"):
        async with shelf.hold(Adapter(path="a", checksum=checksum)):
            pass
    with pytest.raises(AdapterUnavailableError, match="there is no missing"):
        await use(shelf, "missing")


async def test_new_files_at_the_same_place_are_another_adapter(shelf: Shelf, engine: Engine, root: Path) -> None:
    async with shelf.hold(Adapter(path="a")) as old:
        write_adapter(root / "a", 99)
        async with shelf.hold(Adapter(path="a")) as new:
            assert (old.number, old.name) != (new.number, new.name)
            assert engine.names == ["a", "a"]


async def test_unloading_waits_for_those_who_use_it_and_a_new_wish_cancels_it(shelf: Shelf, engine: Engine) -> None:
    async with shelf.hold(Adapter(path="a")):
        checksum = checksum_of(shelf, "a")
        await shelf.obey(Control(control="unload", checksum=checksum))
        assert engine.names == ["a"]
    assert engine.names == []
    async with shelf.hold(Adapter(path="a", checksum=checksum)):
        await shelf.obey(Control(control="unload", checksum=checksum))
        await use(shelf, "a")
    assert engine.names == ["a"]


async def test_whoever_comes_while_one_is_leaving_gets_it_anew(shelf: Shelf, engine: Engine) -> None:
    async with AsyncExitStack() as last:
        await last.enter_async_context(shelf.hold(Adapter(path="a")))
        checksum = checksum_of(shelf, "a")
        await shelf.obey(Control(control="unload", checksum=checksum))
        leaving = asyncio.create_task(last.aclose())
        await asyncio.sleep(0)
        async with shelf.hold(Adapter(path="a", checksum=checksum)) as held:
            await leaving
            assert held.number in engine.loaded


async def test_a_pinned_one_stays_and_one_place_stays_free_of_pins(shelf: Shelf, engine: Engine) -> None:
    await shelf.obey(Control(control="pin", adapter=Adapter(path="a")))
    await use(shelf, "b", "c", "d", "b")
    assert engine.names == ["a", "b"]
    assert shelf.state().pinned == (checksum_of(shelf, "a"),)
    with pytest.raises(EngineError, match="one stays free"):
        await shelf.obey(Control(control="pin", adapter=Adapter(path="b")))
    await shelf.obey(Control(control="unpin", checksum=checksum_of(shelf, "a")))
    await use(shelf, "c", "d")
    assert engine.names == ["c", "d"]


async def test_an_engine_without_places_serves_none(engine: Engine) -> None:
    with pytest.raises(AdapterUnavailableError, match="TRIREME_MAX_LORAS"):
        await use(Shelf(engine), "a")
