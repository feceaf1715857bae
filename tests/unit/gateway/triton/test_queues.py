"""What waits inside Triton, as its metrics page tells."""

import pytest

from gateway.core.job import Backend
from gateway.triton.client import TritonClient
from gateway.triton.probe import TritonProbe
from gateway.triton.queues import SILENT_S, Queues
from tests.fakes.triton import FakeTriton


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def backend(triton: FakeTriton) -> Backend:
    return Backend("a", triton.url, metrics_url=f"{triton.url}/metrics")


async def test_what_waits_at_two_looks_is_a_queue(triton: FakeTriton, client: TritonClient, backend: Backend) -> None:
    queues = Queues(client, 5.0)
    seen = []
    for waiting in (9, 4, 0, 6):
        triton.queues = {"preprocess": waiting, "vllm": 1, "postprocess": 0, "chat": 50, "embed": 50, "vllm_2": 50}
        seen.append(await queues.waiting(backend))
    assert seen == [0, 5, 1, 1]


async def test_a_page_that_is_not_there_is_left_alone_for_a_while(
    triton: FakeTriton, client: TritonClient, backend: Backend
) -> None:
    clock = Clock()
    queues = Queues(client, 5.0, clock)
    assert await queues.waiting(Backend("b", triton.url)) is None, "nobody knows where it is"
    assert [await queues.waiting(backend) for _ in range(3)] == [None] * 3
    assert triton.pages == 1
    triton.queues = {"preprocess": 3}
    clock.now += SILENT_S
    assert [await queues.waiting(backend) for _ in range(2)] == [0, 3]


async def test_a_page_without_queues_says_nothing(triton: FakeTriton, client: TritonClient, backend: Backend) -> None:
    triton.queues = {"something_else": 3}
    assert await Queues(client, 5.0).waiting(backend) is None


@pytest.mark.parametrize("told", [{"running": 2, "kv_tokens": 300}, None])
async def test_a_server_is_as_full_as_the_queue_before_its_engine_says(
    triton: FakeTriton, client: TritonClient, backend: Backend, told: dict[str, int] | None
) -> None:
    triton.loads = {"": told, "1": told} if told else {"": "silent", "1": "silent"}  # type: ignore[dict-item]
    triton.queues = {"preprocess": 4}
    probe = TritonProbe(client, ["chat"], 5.0, 5.0)
    await probe.ready(backend)
    load = (await probe.ready(backend)).load
    assert load is not None
    assert load.saturation == pytest.approx(0.8)
    assert load.overload == 0.0, "what the gateway itself just sent is no reason to refuse anybody"
