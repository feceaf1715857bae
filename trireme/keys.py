"""The pepper and the development key: the two secrets that the embedded stack makes for itself; and the way to Valkey.

Both are files that only their owner can read. Tenants and keys live in Valkey, behind `gateway.auth`: in that of the
embedded stack on this machine, unless the variables of a gateway elsewhere name another.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as ValkeyUnreachable
from redis.exceptions import RedisError

from gateway.auth.store import KeyStore
from gateway.auth.tenants import TenantStore
from gateway.errors import GatewayError
from gateway.valkey.client import client
from trireme.errors import TriremeError, as_sentence
from trireme.settings import LOOPBACK, Settings

PEPPER_BYTES = 32
PRIVATE_FILE = 0o600
CONNECT_TIMEOUT_S = 5.0
URL_VARIABLE = "TRIREME_VALKEY_URL"
CLUSTER_VARIABLE = "TRIREME_VALKEY_CLUSTER"
PEPPER_FILE_VARIABLE = "TRIREME_PEPPER_FILE"
PEPPER_VARIABLE = "TRIREME_PEPPER"
DEFAULT_TENANT = "default"
DEV_TENANT = "dev"
_TRUE = ("true", "1")
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
async def valkey(settings: Settings, environ: Mapping[str, str] = os.environ) -> AsyncIterator[Redis]:
    """The one that `TRIREME_VALKEY_URL` names, else the stack's own. Raises: TriremeError when it does not answer."""
    given = environ.get(URL_VARIABLE)
    url = given or f"redis://{LOOPBACK}:{settings.ports.valkey}/0"
    shown = _without_password(url)
    try:
        async with _client(url, cluster=bool(given) and environ.get(CLUSTER_VARIABLE, "").lower() in _TRUE) as redis:
            yield redis
    except ValkeyUnreachable as error:
        remedy = f"is {URL_VARIABLE} right?" if given else "start the stack with `make serve` first."
        raise TriremeError(f"Valkey does not answer at {shown}: {remedy}") from error
    except RedisError as error:
        raise TriremeError(f"Valkey at {shown} refused: {error}.") from error
    except ValueError as error:
        raise TriremeError(f"{URL_VARIABLE}={shown!r} is no address of a Valkey: {error}.") from error


@asynccontextmanager
async def key_store(settings: Settings, environ: Mapping[str, str] = os.environ) -> AsyncIterator[KeyStore]:
    """Raises: TriremeError, also for what the store refuses."""
    pepper = read_pepper(settings, environ)
    with refusals():
        async with valkey(settings, environ) as redis:
            yield KeyStore(redis, pepper)


@asynccontextmanager
async def tenant_store(settings: Settings, environ: Mapping[str, str] = os.environ) -> AsyncIterator[TenantStore]:
    """Raises: TriremeError, also for what the store refuses."""
    with refusals():
        async with valkey(settings, environ) as redis:
            yield TenantStore(redis)


@contextmanager
def refusals() -> Iterator[None]:
    """What the gateway's code refuses, as a sentence for the terminal."""
    try:
        yield
    except GatewayError as error:
        raise TriremeError(as_sentence(error.message)) from error


def read_pepper(settings: Settings, environ: Mapping[str, str]) -> bytes:
    """From the variables that the gateway has too, else the stack's own. Raises: TriremeError."""
    path, text = environ.get(PEPPER_FILE_VARIABLE), environ.get(PEPPER_VARIABLE)
    if path and text:
        raise TriremeError(f"{PEPPER_FILE_VARIABLE} and {PEPPER_VARIABLE} are both set: set one.")
    if environ.get(URL_VARIABLE) and not path and not text:
        raise TriremeError(
            f"{URL_VARIABLE} names another Valkey: set {PEPPER_FILE_VARIABLE} or {PEPPER_VARIABLE} "
            "to the pepper of its gateways too."
        )
    try:
        return bytes.fromhex(text or Path(path or pepper_file(settings)).read_text())
    except OSError as error:
        raise TriremeError(f"The pepper cannot be read: {error}.") from error
    except ValueError as error:
        raise TriremeError("The pepper is not hexadecimal.") from error


def ensure_dev_key(settings: Settings) -> str:
    """The key in `dev.key` when it is still good, else a new one that takes its place there; and the first tenants."""
    return asyncio.run(_ensure_dev_key(settings))


async def _ensure_dev_key(settings: Settings) -> str:
    """In the stack's own Valkey, whatever the environment says."""
    path, own = dev_key_file(settings), dict[str, str]()
    async with tenant_store(settings, own) as tenants:
        await tenants.ensure(DEFAULT_TENANT, "Default")
        await tenants.ensure(DEV_TENANT, "Development")
    async with key_store(settings, own) as store:
        if path.exists():
            secret = path.read_text().strip()
            if await store.find(secret) is not None:
                path.chmod(PRIVATE_FILE)
                return secret
        _, secret = await store.create(tenant=DEV_TENANT, name="development", scopes=DEV_SCOPES)
    write_private(path, secret + "\n")
    return secret


def _client(url: str, *, cluster: bool) -> Redis:
    """When it does not answer at once, waiting and trying again would not help whoever sits at the terminal."""
    if cluster:
        return client(url, cluster=True, connections=1, timeout_s=CONNECT_TIMEOUT_S)
    return Redis.from_url(url, retry=Retry(NoBackoff(), 0), socket_connect_timeout=CONNECT_TIMEOUT_S)


def _without_password(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
