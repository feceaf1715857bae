"""The adapters in an engine's memory: brought when a request asks for them, kept by use, never taken from a request.

The engine itself would evict and load within a step, where a failure is everybody's. So it never has to: an adapter is
checked and loaded before its first request, and there are never more of them than the engine has room for.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from python_backends.adapters.directory import AdapterError, locate
from python_backends.adapters.inspection import Base, Bounds, inspect
from python_backends.llm.engine import AdapterUnavailableError, EngineError, LoadedAdapter, ShelfState
from python_backends.messages import Adapter, Control

log = logging.getLogger(__name__)

_SHOWN: Final = len("sha256:") + 12


class Loading(Protocol):
    """Both raise EngineError."""

    async def load_adapter(self, adapter: LoadedAdapter) -> None: ...

    async def unload_adapter(self, adapter: LoadedAdapter) -> None: ...


@dataclass(frozen=True, slots=True)
class ShelfSettings:
    """`places`: adapters in memory at the same time, 0: none are served."""

    root: Path = Path()
    places: int = 0
    bounds: Bounds = field(default_factory=Bounds)


@dataclass(slots=True, eq=False)
class _Book:
    """`leaving`: unloaded as soon as nobody reads it."""

    adapter: LoadedAdapter
    checksum: str
    used_at: float
    readers: int = 0
    pinned: bool = False
    leaving: bool = False


@dataclass(slots=True)
class _Counts:
    loads: int = 0
    load_s: float = 0.0
    evictions: int = 0
    failures: int = 0


class Shelf:
    """All methods run on the engine's loop. `base`: what adapters must fit. `clock`: monotonic seconds."""

    def __init__(
        self,
        loading: Loading,
        settings: ShelfSettings | None = None,
        base: Base | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loading = loading
        self._settings = settings or ShelfSettings()
        self._base = base or Base(None, None)
        self._clock = clock
        self._numbers = itertools.count(1)
        self._books: dict[str, _Book] = {}
        self._coming: dict[Adapter, asyncio.Task[_Book]] = {}
        self._one_at_a_time = asyncio.Lock()
        self._freed = asyncio.Event()
        self._counts = _Counts()

    def state(self) -> ShelfState:
        books, counts = self._books.values(), self._counts
        return ShelfState(
            places=self._settings.places,
            loaded=tuple(book.checksum for book in books if not book.leaving),
            pinned=tuple(book.checksum for book in books if book.pinned),
            loads=counts.loads,
            load_s=counts.load_s,
            evictions=counts.evictions,
            failures=counts.failures,
        )

    @asynccontextmanager
    async def hold(self, adapter: Adapter) -> AsyncIterator[LoadedAdapter]:
        """In memory for so long. Waits for a place while all are in use. Raises EngineError."""
        book = await self._get(adapter)
        book.readers += 1
        try:
            yield book.adapter
        finally:
            book.readers -= 1
            book.used_at = self._clock()
            if not book.readers:
                self._freed.set()
                if book.leaving and self._take_off(book):
                    await asyncio.shield(self._loading.unload_adapter(book.adapter))

    async def obey(self, control: Control) -> None:
        """`load`, `pin`, `unpin`, `unload`; what is not there needs no unloading. Raises EngineError."""
        if control.control in ("load", "pin"):
            if control.adapter is None:
                raise EngineError("name the adapter", code="invalid_value", status=400, param="adapter")
            async with self.hold(control.adapter) as held:
                if control.control == "pin":
                    self._pin(next(book for book in self._books.values() if book.adapter is held))
            return
        book = self._books.get(control.checksum or "")
        if book is None:
            return
        book.pinned = False
        if control.control == "unload":
            book.leaving = True
            if not book.readers:
                await self._unload(book)

    def _pin(self, book: _Book) -> None:
        """One place stays free of pins, or no other adapter could ever be served."""
        others = sum(other.pinned for other in self._books.values() if other is not book)
        if others + 1 >= self._settings.places:
            raise EngineError(
                f"{others} adapters are pinned, and the engine has {self._settings.places} places, of which one stays "
                "free: raise TRIREME_MAX_CPU_LORAS, or unpin one",
                code="too_many_pinned",
                status=400,
            )
        book.pinned = True

    async def _get(self, adapter: Adapter) -> _Book:
        """Whoever asks for what is on its way waits for that; nobody's leaving stops it."""
        if not self._settings.places:
            raise AdapterUnavailableError("this engine serves no adapters: start it with TRIREME_MAX_LORAS")
        while True:
            if book := self._find(adapter.checksum or ""):
                return book
            coming = self._coming.get(adapter)
            if coming is None:
                coming = self._coming[adapter] = asyncio.get_running_loop().create_task(self._bring(adapter))
                coming.add_done_callback(lambda task: self._arrived(adapter, task))
            book = await asyncio.shield(coming)
            if self._find(book.checksum) is book:
                return book

    def _find(self, checksum: str) -> _Book | None:
        """One that was about to leave stays, now that somebody wants it."""
        book = self._books.get(checksum)
        if book is not None:
            book.leaving = False
        return book

    def _arrived(self, adapter: Adapter, task: "asyncio.Task[_Book]") -> None:
        del self._coming[adapter]
        if not task.cancelled() and task.exception() is not None:
            self._counts.failures += 1
            log.warning("adapter %s: %s", adapter.path, task.exception())

    async def _bring(self, adapter: Adapter) -> _Book:
        async with self._one_at_a_time:
            checksum, directory = await asyncio.to_thread(self._check, adapter)
            if book := self._find(checksum):
                return book
            await self._make_room()
            name = f"{adapter.path}@{checksum[:_SHOWN]}"
            loaded = LoadedAdapter(next(self._numbers), name, str(directory))
            began = self._clock()
            await self._loading.load_adapter(loaded)
            now = self._clock()
            self._counts.loads += 1
            self._counts.load_s += now - began
            book = self._books[checksum] = _Book(loaded, checksum, now)
            return book

    def _check(self, adapter: Adapter) -> tuple[str, Path]:
        """Runs in a thread. Its checksum and directory. Raises AdapterUnavailableError."""
        settings = self._settings
        try:
            found = inspect(settings.root, adapter.path, self._base, settings.bounds)
            directory = locate(settings.root, adapter.path)
        except AdapterError as error:
            raise AdapterUnavailableError(f"adapter {adapter.path}: {error}") from error
        if adapter.checksum is not None and adapter.checksum != found.checksum:
            raise AdapterUnavailableError(f"adapter {adapter.path}: its files are not those that were registered")
        return found.checksum, directory

    async def _make_room(self) -> None:
        """The place of whoever was not asked for longest; one that is read keeps its place, as pinned ones do."""
        while len(self._books) >= self._settings.places:
            idle = [book for book in self._books.values() if not book.readers and not book.pinned]
            if idle:
                self._counts.evictions += 1
                await self._unload(min(idle, key=lambda book: book.used_at))
            else:
                self._freed.clear()
                await self._freed.wait()

    async def _unload(self, book: _Book) -> None:
        if self._take_off(book):
            await self._loading.unload_adapter(book.adapter)

    def _take_off(self, book: _Book) -> bool:
        """Whether it was there. At once, and before the engine is told: nobody can find what is about to leave it."""
        if self._books.get(book.checksum) is not book:
            return False
        del self._books[book.checksum]
        self._freed.set()
        return True
