"""One JSON document in Valkey that all gateways follow: changed by compare-and-set on its version, and announced."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.core.document import REPLACE
from gateway.core.versioned import Versioned
from gateway.errors import Unavailable

log = logging.getLogger(__name__)

_RACES: Final = 10
Content = TypeVar("Content", bound=Versioned)


@dataclass(frozen=True)
class Place(Generic[Content]):
    """Where a document lies, the channel on which its new versions are announced, and what it is called in messages.

    `decode`: raises msgspec.DecodeError or ValueError. `away`: raised while Valkey cannot be reached.
    """

    key: str
    changed: str
    name: str
    encode: Callable[[Content], bytes]
    decode: Callable[[bytes], Content]
    away: type[Unavailable]


class Document(Generic[Content]):
    """The document in Valkey. Raises what its place says when that cannot be reached. `timeout_s`: for one answer."""

    def __init__(self, redis: Redis, place: Place[Content], timeout_s: float) -> None:
        self.place = place
        self._redis = redis
        self._timeout_s = timeout_s

    async def read(self) -> bytes | None:
        """JSON, not checked yet; None when nothing was written so far."""
        data: bytes | None = await self._ask(self._redis.get(self.place.key))
        return data

    async def replace(self, held: int, content: Content) -> bool:
        """Write it and tell all gateways, if the version in Valkey is still `held`."""
        place = self.place
        written = place.encode(content).decode()
        answer = self._redis.eval(REPLACE, 1, place.key, str(held), str(content.version), written, place.changed)
        return bool(await self._ask(answer))

    @asynccontextmanager
    async def changes(self) -> AsyncIterator["Changes"]:
        with self._faults():
            async with self._redis.pubsub(ignore_subscribe_messages=True) as channel:
                async with asyncio.timeout(self._timeout_s):
                    await channel.subscribe(self.place.changed)
                yield Changes(channel)

    async def _ask(self, answer: Any) -> Any:
        with self._faults():
            async with asyncio.timeout(self._timeout_s):
                return await answer

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except (RedisError, TimeoutError, OSError) as error:
            raise self.place.away(f"{self.place.name} cannot be reached right now", retry_after=1.0) from error


class Changes:
    """Announcements of new versions."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    async def wait(self, seconds: float) -> None:
        """Until the next one, or so long."""
        await self._channel.get_message(timeout=seconds)


class Followed(Generic[Content]):
    """`held`: the document as this gateway has it, the last one that made sense.

    `take`: put one to use, or say that it makes no sense here. `refuse`: told what is wrong with one that cannot be
    read.
    """

    def __init__(
        self,
        document: Document[Content],
        held: Content,
        *,
        take: Callable[[Content], bool],
        refuse: Callable[[str], None],
    ) -> None:
        self.held = held
        self._document = document
        self._never = held
        self._take = take
        self._refuse = refuse

    async def follow(self, refresh_s: float) -> None:
        """Until Valkey is away: then the last valid document goes on. Raises Unavailable."""
        async with self._document.changes() as changes:
            while True:
                await self.refresh()
                await changes.wait(refresh_s)

    async def refresh(self) -> None:
        """Take what Valkey holds, when it is new; write ours back where Valkey lost it. Versions only grow."""
        data, place = await self._document.read(), self._document.place
        try:
            content = self._never if data is None else place.decode(data)
        except (msgspec.DecodeError, ValueError) as error:
            self._refuse(str(error))
            return
        if content.version < self.held.version:
            log.warning("Valkey lost version %d of %s: written back", self.held.version, place.name)
            await self._document.replace(content.version, self.held)
        elif content != self.held and self._take(content):
            self.held = content

    async def change(self, change: Callable[[Content], Content]) -> Content:
        """By compare-and-set, again when somebody else was faster. Raises GatewayError: what `change` does, too."""
        for _ in range(_RACES):
            await self.refresh()
            held = self.held
            wanted = msgspec.structs.replace(change(held), version=held.version + 1)
            if await self._document.replace(held.version, wanted):
                # Meanwhile `follow` may have brought it, or what came after it.
                if wanted.version > self.held.version and self._take(wanted):
                    self.held = wanted
                return wanted
        place = self._document.place
        raise place.away(f"too many others are changing {place.name}: try again", retry_after=1.0)
