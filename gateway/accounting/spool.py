"""Where entries wait on disk while Valkey is away. The event loop never waits for the disk."""

import asyncio
import logging
import os
import secrets
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import TypeVar, TypeVarTuple

import msgspec
from prometheus_client import Counter, Gauge

from gateway.accounting.entries import Numbered
from gateway.accounting.spool_file import SpoolFile, left_over, private_directory

log = logging.getLogger(__name__)

# Entries that are few enough to be sent all at once.
RECENT = 256

_ENCODER = msgspec.json.Encoder()
Args = TypeVarTuple("Args")
Result = TypeVar("Result")


def default_directory() -> Path:
    """Of this user alone."""
    return Path(gettempdir()) / f"trireme-spool-{os.geteuid()}"


@dataclass(frozen=True)
class Batch:
    """The next entries of one writer. `end`: the offset behind them in their file."""

    writer: str
    entries: list[Numbered]
    file: SpoolFile
    end: int


class Spool:
    """This process's own entries, and those that dead ones have left; at most `most_bytes` of both together.

    `waiting`, `dropped`: entries that wait here, and that were lost for want of room or by the disk.
    """

    def __init__(self, directory: Path, most_bytes: int, waiting: Gauge, dropped: Counter) -> None:
        self.writer = secrets.token_hex(16)
        self.own_waiting = 0
        self.filled = asyncio.Event()
        self._directory = directory
        self._most_bytes = most_bytes
        self._waiting = waiting
        self._dropped = dropped
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._pending: list[bytes] = []
        self._recent: deque[Numbered] = deque(maxlen=RECENT)
        self._spent: list[SpoolFile] = []
        self._unwritten = asyncio.Event()
        self._writing = asyncio.Lock()
        self._own: SpoolFile | None = None
        self._files = 0
        self._inherited: deque[SpoolFile] = deque()
        self._inherited_waiting = 0
        self._bytes = 0
        self._complained = False

    @property
    def waiting(self) -> int:
        """Entries, `own_waiting` of them this process's own."""
        return self.own_waiting + self._inherited_waiting

    async def open(self) -> None:
        """Raises OSError when the directory cannot be used."""
        await self._in_thread(private_directory, self._directory)
        for file in await self._in_thread(left_over, self._directory):
            self._inherited.append(file)
            self._inherited_waiting += await self._in_thread(file.count)
            self._bytes += file.size
        if self._inherited:
            log.info("%d entries of the ledger were left in %s", self._inherited_waiting, self._directory)
            self.filled.set()
        self._waiting.set(self.waiting)

    def put(self, one: Numbered) -> bool:
        """Whether there is room. Never waits: `run` brings it to the disk."""
        line = _ENCODER.encode(one) + b"\n"
        if self._bytes + len(line) > self._most_bytes:
            self._drop(1, "it is full")
            return False
        self._pending.append(line)
        self._recent.append(one)
        self._count(1, len(line))
        self._unwritten.set()
        self.filled.set()
        return True

    async def run(self) -> None:
        while True:
            await self._unwritten.wait()
            await self.write()

    async def write(self) -> None:
        """What was put is in the file afterwards: the process may be killed."""
        async with self._writing:
            self._unwritten.clear()
            lines, self._pending = self._pending, []
            if not lines:
                return
            try:
                await self._in_thread(self._append, lines)
            except OSError as error:
                self._recent.clear()
                self._count(-len(lines), -sum(map(len, lines)))
                self._drop(len(lines), str(error))

    async def head(self, most: int) -> Batch | None:
        """The next entries to send, this process's own first; None: there are none. The same again until `sent`."""
        await self._tidy()
        await self.write()
        if self.own_waiting and (batch := await self._in_thread(self._own_head, most)):
            return batch
        while self._inherited:
            file = self._inherited[0]
            found, end = await self._in_thread(file.head, most)
            if found:
                return Batch(file.writer, found, file, end)
            await self._forget(self._inherited.popleft())
        self._inherited_waiting = 0
        self._count(0, 0)
        return None

    async def sent(self, batch: Batch) -> None:
        """Valkey has them."""
        batch.file.skip_to(batch.end)
        if batch.file is not self._own:
            self._inherited_waiting -= len(batch.entries)
        self._count(-len(batch.entries) if batch.file is self._own else 0, 0)

    async def take_back(self) -> list[Numbered] | None:
        """This process's own entries that still wait, when these are few: then none does any more, and `put` begins
        anew. So a steady flow of new ones cannot keep the spool from ever becoming empty. None: they are many.

        Nothing else runs between the moment that this describes and the caller's next step.
        """
        await self._tidy()
        async with self._writing:
            waiting = self.own_waiting
            if waiting > len(self._recent):
                return None
            rest = list(self._recent)[len(self._recent) - waiting :]
            self._count(-waiting, -sum(map(len, self._pending)))
            self._recent.clear()
            self._pending.clear()
            if self._own is not None:
                self._spent.append(self._own)
                self._own = None
            return rest

    async def close(self) -> None:
        """What waits stays on disk, for the next gateway that starts here."""
        await self.write()
        await self._tidy()
        await self._in_thread(self._close_files)
        self._thread.shutdown()

    def _close_files(self) -> None:
        """Behind whatever else the thread has to do."""
        for file in (*self._inherited, *filter(None, [self._own])):
            file.close(remove=False)

    def _append(self, lines: list[bytes]) -> None:
        if self._own is None:
            private_directory(self._directory)  # whoever tidies up temporary files may have been here
            self._files += 1
            self._own = SpoolFile.create(self._directory, self.writer, self._files)
        self._own.append(lines)

    def _own_head(self, most: int) -> Batch | None:
        if self._own is None:
            return None
        found, end = self._own.head(most)
        return Batch(self.writer, found, self._own, end) if found else None

    async def _forget(self, file: SpoolFile) -> None:
        """Its entries are all in Valkey."""
        self._bytes -= file.size
        self._dropped.inc(file.spoilt)
        await self._in_thread(lambda: file.close(remove=True))

    async def _tidy(self) -> None:
        while self._spent:
            await self._forget(self._spent.pop())

    def _count(self, entries: int, size: int) -> None:
        """Of this process's own."""
        self.own_waiting += entries
        self._bytes += size
        if self.waiting == 0 and not self._inherited:
            self.filled.clear()
            self._complained = False
        self._waiting.set(self.waiting)

    def _drop(self, number: int, reason: str) -> None:
        self._dropped.inc(number)
        if not self._complained:
            self._complained = True
            log.error("the ledger loses entries, spool %s: %s; more losses are only counted", self._directory, reason)

    async def _in_thread(self, work: Callable[[*Args], Result], *args: *Args) -> Result:
        """Done to its end, also when nobody waits for it any more."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, work, *args))
