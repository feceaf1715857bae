"""Answers to other words through a whole gateway, before a server that searches and one that does not."""

from collections.abc import Iterator
from typing import Any

import pytest

from gateway.assembly.keys import OUTBOX
from gateway.auth.store import SCOPES, KeyStore
from gateway.config import load
from gateway.core.identity import CachePolicy
from tests.fakes.triton import FakeTriton
from tests.support.search_server import SearchServer
from tests.unit.gateway.api.test_cache import ask, value
from tests.unit.gateway.conftest import running_gateway

WAYS = {"TRIREME_CACHE": "exact", "TRIREME_CACHE_SEMANTIC_THRESHOLDS": '{"tiny-embed": 0.9}'}


@pytest.fixture
def search_server(valkey_url: str) -> Iterator[SearchServer]:
    with SearchServer(valkey_url) as server:
        yield server


def chat(text: str) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], "temperature": 0}


@pytest.mark.parametrize("offers", [True, False], ids=["server", "gateway"])
async def test_other_words_get_the_same_answer_wherever_they_are_found(
    environment: dict[str, str], store: KeyStore, triton: FakeTriton, search_server: SearchServer, offers: bool
) -> None:
    search_server.offers = offers
    _, secret = await store.create(tenant="acme", name="words", scopes=SCOPES, cache=CachePolicy(mode="semantic"))
    settings = load({**environment, **WAYS, "TRIREME_VALKEY_URL": search_server.url})
    async with running_gateway(settings, secret) as gateway:
        first, _ = await ask(gateway, chat("How do I reset my password?"))
        await gateway.app[OUTBOX].flush()
        again, _ = await ask(gateway, chat("How can I reset my password"))
        other, _ = await ask(gateway, chat("How do I reset my passport?"))
        assert (first, again, other) == ("miss", "hit-semantic", "miss")
        assert value(gateway, "trireme_cache_semantic_server") == offers
        assert (value(gateway, "trireme_cache_semantic_entries") == 0) == offers
    assert len(triton.requests) == 2
