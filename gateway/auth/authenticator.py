"""Secret → caller, from a snapshot of all keys that follows Valkey and outlives it."""

import asyncio
import hmac
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from prometheus_client import Gauge
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from gateway.auth.secret import well_formed
from gateway.auth.store import REVOKED_CHANNEL, KeyRecord, KeyStore
from gateway.core.call import Caller
from gateway.core.settings import Setting
from gateway.errors import InvalidKey, KeysUnavailable, MissingScope

# Reading all keys may take longer than one answer may.
RELOAD_PATIENCE = 10

Positive = Annotated[float, msgspec.Meta(gt=0)]


@dataclass(frozen=True, kw_only=True)
class AuthSettings:
    valkey_url: Annotated[str, Setting("Where Valkey (or Redis) keeps the API keys.", env="VALKEY_URL")] = (
        "redis://127.0.0.1:6379/0"
    )
    pepper_file: Annotated[
        Path, Setting("File with the secret, in hexadecimal, under which keys are hashed.", env="PEPPER_FILE")
    ]
    valkey_timeout_s: Annotated[
        Positive, Setting("Longest wait for one answer of Valkey.", env="VALKEY_TIMEOUT_S", unit="s")
    ] = 0.5
    valkey_connections: Annotated[
        int, msgspec.Meta(ge=2), Setting("Most connections to Valkey.", env="VALKEY_CONNECTIONS")
    ] = 16
    snapshot_ttl_s: Annotated[
        Positive,
        Setting(
            "How often all keys are read again; revocations arrive at once without that.",
            env="KEY_SNAPSHOT_TTL_S",
            unit="s",
        ),
    ] = 10.0


class Authenticator:
    """Known keys are served from memory, also while Valkey is away; unknown ones are looked up there.

    `follow` keeps the memory fresh. `timeout_s`: for one answer of Valkey. `clock`: Unix seconds.
    """

    def __init__(
        self, store: KeyStore, synced: Gauge, timeout_s: float = 0.5, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._timeout_s = timeout_s
        self._synced = synced
        self._clock = clock
        self._known: dict[str, KeyRecord] = {}
        self.loaded = asyncio.Event()

    async def authenticate(self, secret: str | None, scopes: frozenset[str]) -> Caller:
        """`scopes`: the key needs one of them; none: any key will do.

        Raises InvalidKey, MissingScope, KeysUnavailable.
        """
        if not secret:
            raise _invalid("no API key: send it as `Authorization: Bearer <key>`")
        record = await self._find(secret)
        if record is None:
            raise _invalid("this API key is not valid")
        if scopes and not scopes & record.scopes:
            needed = " or ".join(sorted(scopes))
            raise MissingScope(f"this API key lacks the scope {needed}: create one with `trireme keys create`")
        return Caller(record.key_id, record.tenant, record.scopes)

    async def _find(self, secret: str) -> KeyRecord | None:
        digest = self._store.digest(secret)
        known = self._known.get(digest)
        if known is not None and hmac.compare_digest(known.digest, digest):
            return known if known.usable(self._clock()) else None
        if not well_formed(secret):
            return None
        with _valkey_faults():
            async with asyncio.timeout(self._timeout_s):
                found = await self._store.find_digest(digest)
        if found is not None:
            self._known[digest] = found
        return found

    async def follow(self, redis: Redis, refresh_s: float) -> None:
        """Hear of revocations and read all keys every `refresh_s`, until Valkey is away. Raises KeysUnavailable."""
        try:
            with _valkey_faults():
                async with redis.pubsub(ignore_subscribe_messages=True) as channel:
                    async with asyncio.timeout(self._timeout_s):
                        await channel.subscribe(REVOKED_CHANNEL)
                    while True:
                        await self._reload()
                        await self._hear(channel, time.monotonic() + refresh_s)
        finally:
            self._synced.set(0)

    async def _hear(self, channel: PubSub, until: float) -> None:
        while (left := until - time.monotonic()) > 0:
            message = await channel.get_message(timeout=left)
            if message is not None:
                self._known.pop(message["data"].decode(), None)

    async def _reload(self) -> None:
        async with asyncio.timeout(self._timeout_s * RELOAD_PATIENCE):
            records = await self._store.list()
        self._known = {record.digest: record for record in records if record.revoked_at is None}
        self.loaded.set()
        self._synced.set(1)


@contextmanager
def _valkey_faults() -> Iterator[None]:
    try:
        yield
    except (RedisError, TimeoutError) as error:
        raise KeysUnavailable("API keys cannot be checked right now", retry_after=1.0) from error


def _invalid(message: str) -> InvalidKey:
    return InvalidKey(message, headers={"www-authenticate": "Bearer"})
