"""What the gateway learns of a Triton server by asking."""

import aiohttp
import pytest

from gateway.core.job import Backend
from gateway.errors import BackendFailed, BackendLost
from gateway.triton.client import TritonClient
from gateway.triton.probe import SECRET_S, TritonProbe
from gateway.triton.settings import TritonSettings
from tests.fakes.triton import FakeTriton


@pytest.fixture
def probe(client: TritonClient) -> TritonProbe:
    return TritonProbe(client, ["chat"], 5.0, 5.0)


async def test_versions_and_the_load_of_the_busiest_engine_are_told(triton: FakeTriton, probe: TritonProbe) -> None:
    triton.versions = {"chat": ["1"], "chat_2": ["2"], "vllm": ["1", "2"]}
    triton.loads = {"1": {"kv_usage": 0.1, "kv_tokens": 900}, "2": {"kv_usage": 0.45, "kv_tokens": 300}}
    condition = await probe.ready(Backend("a", triton.url))
    assert condition.versions == triton.versions
    assert condition.load is not None
    assert (condition.load.saturation, condition.load.kv_tokens) == (0.5, 300)


async def test_a_dead_engine_beside_the_default_one_is_left_out_and_harms_nobody(
    triton: FakeTriton, probe: TritonProbe
) -> None:
    triton.versions = {"chat": ["1"], "chat_2": ["2"], "vllm": ["1", "2"], "embed": ["2"]}
    triton.dead_engines = {"2"}
    condition = await probe.ready(Backend("a", triton.url))
    assert condition.versions == {"chat": ["1"], "chat_2": [], "vllm": ["1"], "embed": ["2"]}


async def test_a_dead_default_engine_is_a_dead_backend(triton: FakeTriton, probe: TritonProbe) -> None:
    triton.versions = {"chat": ["1"], "chat_2": ["2"], "vllm": ["1", "2"]}
    triton.dead_engines = {"1"}
    with pytest.raises(BackendFailed):
        await probe.ready(Backend("a", triton.url))


async def test_a_server_that_keeps_its_versions_secret_is_ready_all_the_same(
    triton: FakeTriton, probe: TritonProbe
) -> None:
    triton.versions = None
    for _ in range(2):
        condition = await probe.ready(Backend("a", triton.url))
        assert condition.versions == {}
        assert condition.load is not None


async def test_what_was_kept_secret_may_be_told_later(triton: FakeTriton) -> None:
    now = 0.0
    async with aiohttp.ClientSession() as session:
        probe = TritonProbe(TritonClient(session, TritonSettings()), ["chat"], 5.0, 5.0, lambda: now)
        triton.versions = None
        await probe.ready(Backend("a", triton.url))
        triton.versions = {"chat": ["1"], "vllm": ["1"]}
        assert (await probe.ready(Backend("a", triton.url))).versions == {}
        now = SECRET_S
        assert (await probe.ready(Backend("a", triton.url))).versions == triton.versions


async def test_no_answer_is_no_secret(triton: FakeTriton, probe: TritonProbe) -> None:
    await triton.stop()
    with pytest.raises(BackendLost):
        await probe.ready(Backend("a", triton.url))


async def test_adapters_are_those_of_the_engine_that_orders_about_them_go_to(
    triton: FakeTriton, probe: TritonProbe
) -> None:
    triton.versions = {"chat": ["1"], "chat_2": ["2"], "vllm": ["1", "2"]}
    triton.loads = {"1": {"shelf": {"places": 3}}, "2": {"kv_usage": 0.9, "shelf": {"places": 5}}}
    condition = await probe.ready(Backend("a", triton.url))
    assert condition.load is not None
    assert (condition.load.saturation, condition.load.shelf.places) == (1.0, 3)
