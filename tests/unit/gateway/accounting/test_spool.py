"""What waits on disk: bounded, private, and found again after a crash."""

import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import Counter, Gauge

from gateway.accounting.entries import Numbered
from gateway.accounting.spool import RECENT, Spool
from gateway.accounting.spool_file import SpoolFile, left_over
from tests.unit.gateway.accounting.making import new_entry

ROOM = 1_000_000


class Opened:
    """Spools of one test, each with its own metrics; all are closed at its end."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._all: list[Spool] = []

    async def new(self, most_bytes: int = ROOM) -> Spool:
        waiting, dropped = Gauge("waiting", "", registry=None), Counter("dropped", "", registry=None)
        spool = Spool(self.directory, most_bytes, waiting, dropped)
        await spool.open()
        self._all.append(spool)
        return spool

    async def die(self, spool: Spool) -> None:
        """As a kill: what is in the file stays, and its lock goes."""
        self._all.remove(spool)
        spool._pending.clear()
        await spool.close()

    async def close(self) -> None:
        for spool in self._all:
            await spool.close()


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Opened]:
    one = Opened(tmp_path / "spool")
    yield one
    await one.close()


def put(spool: Spool, *numbers: int) -> list[bool]:
    return [spool.put(Numbered(number, new_entry(number))) for number in numbers]


async def drained(spool: Spool, most: int = 2) -> list[tuple[str, int]]:
    """Writer and number of everything, in the order in which it would be sent."""
    found = []
    while (batch := await spool.head(most)) is not None:
        found += [(batch.writer, one.seq) for one in batch.entries]
        await spool.sent(batch)
    return found


def dropped(spool: Spool) -> float:
    return spool._dropped._value.get()


def files(opened: Opened) -> list[Path]:
    return sorted(opened.directory.glob("*.jsonl"))


async def test_what_was_put_comes_out_in_order(opened: Opened) -> None:
    spool = await opened.new()
    put(spool, 1, 2, 3)
    assert spool.filled.is_set()
    assert await drained(spool) == [(spool.writer, 1), (spool.writer, 2), (spool.writer, 3)]
    assert spool.waiting == 0
    assert not spool.filled.is_set()


async def test_the_same_comes_again_until_it_was_sent(opened: Opened) -> None:
    spool = await opened.new()
    put(spool, 1, 2)
    first, again = await spool.head(10), await spool.head(10)
    assert first is not None
    assert again is not None
    assert first.entries == again.entries == [Numbered(1, new_entry(1)), Numbered(2, new_entry(2))]


async def test_only_the_owner_can_read_it(opened: Opened) -> None:
    spool = await opened.new()
    put(spool, 1)
    await spool.write()
    [file] = files(opened)
    assert file.stat().st_mode & 0o777 == 0o600
    assert opened.directory.stat().st_mode & 0o777 == 0o700


async def test_a_directory_in_which_others_can_write_is_refused(opened: Opened) -> None:
    opened.directory.mkdir()
    opened.directory.chmod(0o777)
    with pytest.raises(PermissionError, match="must not write"):
        await opened.new()


async def test_entries_of_a_dead_writer_are_found_under_its_name(opened: Opened) -> None:
    dead = await opened.new()
    put(dead, 7, 8)
    await dead.write()
    await opened.die(dead)
    heir = await opened.new()
    assert (heir.waiting, heir.own_waiting) == (2, 0)
    assert await drained(heir) == [(dead.writer, 7), (dead.writer, 8)]
    assert files(opened) == []


async def test_entries_of_a_living_writer_are_its_own(opened: Opened) -> None:
    living = await opened.new()
    put(living, 1)
    await living.write()
    other = await opened.new()
    assert other.waiting == 0
    assert left_over(opened.directory) == []


async def test_two_heirs_do_not_share(opened: Opened) -> None:
    dead = await opened.new()
    put(dead, 1)
    await dead.write()
    await opened.die(dead)
    first, second = await opened.new(), await opened.new()
    assert (first.waiting, second.waiting) == (1, 0)


async def test_half_a_line_of_a_killed_writer_is_no_entry(opened: Opened) -> None:
    dead = await opened.new()
    put(dead, 1, 2)
    await dead.write()
    await opened.die(dead)
    [file] = files(opened)
    os.truncate(file, file.stat().st_size - 5)
    heir = await opened.new()
    assert await drained(heir) == [(dead.writer, 1)]


async def test_a_spoilt_line_is_passed_over_and_counted_once(opened: Opened) -> None:
    dead = await opened.new()
    put(dead, 1, 2)
    await dead.write()
    await opened.die(dead)
    [file] = files(opened)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + b"\x00\xff rubbish\n" + lines[1])
    heir = await opened.new()
    assert await heir.head(10) is not None
    assert await drained(heir, most=10) == [(dead.writer, 1), (dead.writer, 2)]
    assert dropped(heir) == 1
    assert heir.waiting == 0


async def test_what_finds_no_room_is_counted_and_told_once(opened: Opened, caplog: pytest.LogCaptureFixture) -> None:
    spool = await opened.new(most_bytes=1000)
    kept = put(spool, *range(1, 21))
    assert 0 < kept.count(True) < 20
    assert kept == sorted(kept, reverse=True)
    assert dropped(spool) == kept.count(False)
    assert [record.levelname for record in caplog.records].count("ERROR") == 1
    await spool.write()
    assert sum(file.stat().st_size for file in files(opened)) <= 1000


async def test_what_the_dead_left_takes_room_until_it_is_sent(opened: Opened) -> None:
    dead = await opened.new(most_bytes=1000)
    left = put(dead, *range(1, 10)).count(True)
    await dead.write()
    await opened.die(dead)
    heir = await opened.new(most_bytes=1000)
    assert put(heir, 1) == [False]
    assert len(await drained(heir)) == left
    assert put(heir, 1) == [True]


async def test_a_disk_that_fails_loses_what_it_was_given_and_no_more(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = await opened.new()
    put(spool, 1)
    await spool.write()
    with monkeypatch.context() as patched:
        patched.setattr(SpoolFile, "append", no_space)
        put(spool, 2, 3)
        await spool.write()
    put(spool, 4)
    assert dropped(spool) == 2
    assert await drained(spool) == [(spool.writer, 1), (spool.writer, 4)]


def no_space(file: SpoolFile, lines: list[bytes]) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


async def test_the_last_few_can_be_taken_back(opened: Opened) -> None:
    spool = await opened.new()
    put(spool, 1, 2)
    await spool.write()
    put(spool, 3)
    batch = await spool.head(1)
    assert batch is not None
    await spool.sent(batch)
    rest = await spool.take_back()
    assert rest is not None
    assert [one.seq for one in rest] == [2, 3]
    assert spool.own_waiting == 0
    assert await spool.head(10) is None
    assert files(opened) == []
    put(spool, 4)
    assert await drained(spool) == [(spool.writer, 4)]


async def test_many_cannot_be_taken_back(opened: Opened) -> None:
    spool = await opened.new()
    put(spool, *range(1, RECENT + 2))
    assert await spool.take_back() is None
    assert spool.own_waiting == RECENT + 1
