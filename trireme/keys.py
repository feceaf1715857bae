"""The pepper and the development key: the two secrets that the embedded stack makes for itself.

Both are files that only their owner can read. Keys themselves live in Valkey, behind `gateway.auth.store`.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as ValkeyUnreachable
from redis.exceptions import RedisError

from gateway.auth.store import KeyStore
from trireme.errors import TriremeError
from trireme.settings import LOOPBACK, Settings

PEPPER_BYTES = 32
PRIVATE_FILE = 0o600
DEV_TENANT = "dev"
DEV_SCOPES = frozenset({"inference", "embeddings", "admin", "metrics"})


def pepper_file(settings: Settings) -> Path:
    """Path of the pepper, in hexadecimal; made on the first call and never changed, or no key would be found again."""
    path = settings.state_dir / "pepper"
    if not path.exists():
        write_private(path, secrets.token_bytes(PEPPER_BYTES).hex() + "\n")
    return path


def dev_key_file(settings: Settings) -> Path:
    """Path of the development key."""
    return settings.state_dir / "dev.key"


def write_private(path: Path, text: str) -> None:
    """Mode 600 from the first byte on, and never half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with suppress(FileNotFoundError):
        partial.unlink()
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    partial.replace(path)


@asynccontextmanager
async def key_store(settings: Settings) -> AsyncIterator[KeyStore]:
    """The store in the stack's own Valkey. Raises: TriremeError when that does not answer."""
    pepper = bytes.fromhex(pepper_file(settings).read_text())
    port = settings.ports.valkey
    # It is on this machine: when it does not answer at once, waiting and trying again would not help.
    async with Redis(host=LOOPBACK, port=port, retry=Retry(NoBackoff(), 0)) as redis:
        try:
            yield KeyStore(redis, pepper)
        except ValkeyUnreachable as error:
            raise TriremeError(
                f"Valkey does not answer on port {port}: start the stack with `make serve` first."
            ) from error
        except RedisError as error:
            raise TriremeError(f"Valkey on port {port} refused: {error}.") from error


def ensure_dev_key(settings: Settings) -> str:
    """The key in `dev.key` when it is still good, else a new one that takes its place there."""
    return asyncio.run(_ensure_dev_key(settings))


async def _ensure_dev_key(settings: Settings) -> str:
    path = dev_key_file(settings)
    async with key_store(settings) as store:
        if path.exists():
            secret = path.read_text().strip()
            if await store.find(secret) is not None:
                path.chmod(PRIVATE_FILE)
                return secret
        _, secret = await store.create(tenant=DEV_TENANT, name="development", scopes=DEV_SCOPES)
    write_private(path, secret + "\n")
    return secret
