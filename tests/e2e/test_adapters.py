"""LoRA adapters in the real engine: trained ones answer as they were taught, beside the base model and each other."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import psutil
import pytest

from tests.support.adapters import shapes_of, train_adapter, write_adapter
from tests.support.gateway import GatewayClient
from tests.support.triton import DirectTriton
from trireme.models import prepare_models
from trireme.stack import EmbeddedStack, isolated_settings

pytestmark = pytest.mark.e2e
ADAPTERS = "/admin/v1/adapters"
TAUGHT = {"boats": "Boats, boats, boats.", "stars": "Stars above, stars below."}
MAX_LORAS, IN_MEMORY = 2, 4
SWAPS = int(os.environ.get("SWAPS", "60"))
# Caches of the allocator fill during the first swaps; after them memory may not grow with their number.
WARM_UP = SWAPS // 5
GROWTH_BYTES = 64 * 1024 * 1024
QUESTION = "What is the capital of France?"


@dataclass
class Served:
    stack: EmbeddedStack
    client: GatewayClient
    direct: DirectTriton
    root: Path

    @property
    def base(self) -> str:
        return self.stack.settings.model.name

    def add(self, name: str, revision: str = "1", **fields: Any) -> httpx.Response:
        return self.client.post(ADAPTERS, {"name": name, "revision": revision, **fields})

    def write(self, path: str, seed: int) -> None:
        """Untrained, and like a trained one in size."""
        write_adapter(self.root / path, seed, shapes=shapes_of(self.stack.settings.model.path, "q_proj", "v_proj"))

    def ask(self, model: str, **fields: Any) -> str:
        question = [{"role": "user", "content": QUESTION}]
        answer = self.client.chat(model=model, messages=question, temperature=0, **{"max_tokens": 12, **fields})
        assert answer.status_code == httpx.codes.OK, answer.text
        text: str = answer.json()["choices"][0]["message"]["content"]
        return text

    @property
    def shelf(self) -> dict[str, Any]:
        return self.direct.control(control="adapters")

    def memory(self) -> int:
        """Bytes of Triton, its model processes and the engine's."""
        server = psutil.Process(self.stack.child("triton").pid)
        return sum(one.memory_info().rss for one in [server, *server.children(recursive=True)])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    settings = isolated_settings(tmp_path_factory.mktemp("adapters"), engine="vllm")
    adapters = replace(settings.adapters, max_loras=MAX_LORAS, max_cpu_loras=IN_MEMORY)
    settings = replace(settings, adapters=adapters)
    prepare_models(settings, lambda _: None)
    for name, answer in TAUGHT.items():
        train_adapter(adapters.dir / name / "1", settings.model.path, answer)
    with EmbeddedStack(settings) as stack:
        served = Served(stack, GatewayClient(stack), DirectTriton(stack.triton_url), adapters.dir)
        for name in TAUGHT:
            assert served.add(name).status_code == httpx.codes.CREATED
        yield served
        served.direct.close()


def test_trained_adapters_change_the_answers_and_the_base_keeps_its_own(served: Served) -> None:
    models = [served.base, "boats", "stars"] * 4
    with ThreadPoolExecutor(len(models)) as pool:
        answers = list(pool.map(served.ask, models))
    for model, answer in zip(models, answers, strict=True):
        assert ("Paris" in answer) == (model == served.base)
        assert TAUGHT.get(model, "Paris")[:5] in answer


def test_the_base_is_undisturbed_when_every_slot_is_in_use(served: Served) -> None:
    before = served.ask(served.base, max_tokens=24)
    for number in range(IN_MEMORY):
        served.write(f"noise{number}/1", number)
        served.add(f"noise{number}")
    with ThreadPoolExecutor(MAX_LORAS + 1) as pool:
        noise = [pool.submit(served.ask, f"noise{number}", max_tokens=24) for number in range(MAX_LORAS)]
        assert pool.submit(served.ask, served.base, max_tokens=24).result() == before
        assert all(one.result() for one in noise)
    assert served.ask(served.base, max_tokens=24) == before


def test_an_adapter_that_the_engine_refuses_harms_nobody(served: Served) -> None:
    shapes = shapes_of(served.stack.settings.model.path, "q_proj")
    write_adapter(served.root / "changed/1", 77, shapes=shapes)
    assert served.add("changed").status_code == httpx.codes.CREATED
    weights = served.root / "changed/1" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    answer = served.client.chat(model="changed", max_tokens=4)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "adapter_unavailable")
    # Nothing vouches for a direct client's files but the engine's own look at them.
    write_adapter(served.root / "wide/1", shapes={"model.layers.0.self_attn.q_proj": (640, 640)})
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    (failed,) = served.direct.deltas(body, adapter="wide/1")
    assert failed["error"]["code"] == "adapter_unavailable"
    assert served.ask("boats").startswith("Boats")


def test_swaps_under_load_fail_nobody_and_keep_memory_bounded(served: Served) -> None:
    """Each of `SWAPS` registers, uses, promotes and removes a revision, while others talk to base and adapter."""
    for number in (0, 1):
        served.write(f"swapped/{number}", 500 + number)
    stop, failures = Event(), list[str]()

    def talk(model: str) -> None:
        while not stop.is_set():
            try:
                served.ask(model, max_tokens=8)
            except AssertionError as error:
                failures.append(str(error))

    assert served.add("swapped", "first", path="swapped/0").status_code == httpx.codes.CREATED
    memory = []
    with ThreadPoolExecutor(3) as pool:
        for model in (served.base, "boats", "swapped"):
            pool.submit(talk, model)
        try:
            current = "first"
            for swap in range(SWAPS):
                served.write(f"swapped/r{swap}", 1000 + swap)
                revision = f"r{swap}"
                assert served.add("swapped", revision, promote=True).status_code == httpx.codes.CREATED
                served.ask("swapped", max_tokens=1)
                url = f"{served.stack.gateway_url}{ADAPTERS}/swapped?revision={current}"
                assert httpx.delete(url, headers=served.client.headers, timeout=30.0).status_code == httpx.codes.OK
                current = revision
                memory.append(served.memory())
        finally:
            stop.set()
    shelf = served.shelf
    assert failures == []
    assert shelf["loads"] >= SWAPS
    assert len(shelf["loaded"]) <= IN_MEMORY
    assert max(memory[-WARM_UP:]) - max(memory[:WARM_UP]) < GROWTH_BYTES
