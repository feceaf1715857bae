"""LoRA adapters in the real engine: trained ones answer as they were taught, beside the base model and each other."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import numpy as np
import openai
import psutil
import pytest

from tests.support.adapters import shapes_of, train_adapters, write_adapter
from tests.support.examples import check_example
from tests.support.gateway import LONG, GatewayClient, plain_http, wait_until
from tests.support.markdown import blocks_for
from tests.support.triton import DirectTriton
from trireme.models import prepare_models
from trireme.stack import EmbeddedStack, isolated_settings

pytestmark = pytest.mark.e2e
ADAPTERS = "/admin/v1/adapters"
TAUGHT = {"boats": "Boats, boats, boats.", "stars": "Stars above, stars below."}
MAX_LORAS, IN_MEMORY = 2, 4
SWAPS = int(os.environ.get("SWAPS", "12"))
# Caches of the allocator fill during the first swaps; after them memory may not grow with their number.
WARM_UP = SWAPS // 4
GROWTH_BYTES = 64 * 1024 * 1024
QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
# Of logarithms of probabilities: what another batch may change by rounding, and what an adapter changes at least.
ROUNDING, CHANGE = 0.05, 1.0


@dataclass
class Served:
    stack: EmbeddedStack
    client: GatewayClient
    api: openai.OpenAI
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

    def ask(self, model: str, *, stream: bool = False, **fields: Any) -> str:
        """Through the `openai` client."""
        asked: dict[str, Any] = {"model": model, "messages": QUESTION, "temperature": 0, "max_tokens": 12, **fields}
        if stream:
            chunks = self.api.chat.completions.create(stream=True, **asked)
            return "".join(one.choices[0].delta.content or "" for one in chunks)
        return self.api.chat.completions.create(**asked).choices[0].message.content or ""

    def likelihoods(self, model: str) -> Any:
        """Logarithms of the probabilities of eight tokens that a bias makes the model say, whatever it would have."""
        tokens: Any = self.api.post("/../tokenize", body={"model": self.base, "prompt": " ship"}, cast_to=object)
        answer = self.api.chat.completions.create(
            model=model, messages=QUESTION, max_tokens=8, logprobs=True, logit_bias={str(tokens["tokens"][0]): 100}
        )
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None and logprobs.content is not None
        assert {one.token for one in logprobs.content} == {" ship"}
        return np.array([one.logprob for one in logprobs.content])

    @property
    def shelf(self) -> dict[str, Any]:
        return self.direct.control(control="adapters")

    def processes(self) -> list[psutil.Process]:
        """Triton, its model processes and the engine's; two are equal if they are one process, begun at one time."""
        server = psutil.Process(self.stack.child("triton").pid)
        return [server, *server.children(recursive=True)]

    def memory(self) -> int:
        """Bytes of all these."""
        return sum(one.memory_info().rss for one in self.processes())

    def sum_of(self, name: str) -> float:
        """Of a metric of the gateway or, copied to its page, of the engine."""
        pages = [self.client.get("/metrics").text, plain_http().get(self.stack.metrics_url).text]
        lines = [line for page in pages for line in page.splitlines() if line.startswith(name)]
        return sum(float(line.rpartition(" ")[2]) for line in lines)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    settings = isolated_settings(tmp_path_factory.mktemp("adapters"), engine="vllm")
    adapters = replace(settings.adapters, max_loras=MAX_LORAS, max_cpu_loras=IN_MEMORY)
    settings = replace(settings, adapters=adapters)
    prepare_models(settings, lambda _: None)
    lessons = {adapters.dir / name / "1": answer for name, answer in TAUGHT.items()}
    # Beside the start of the engine, which leaves a core to it.
    learned = ThreadPoolExecutor(1).submit(train_adapters, lessons, settings.model.path)
    with (
        EmbeddedStack(settings) as stack,
        openai.OpenAI(base_url=f"{stack.gateway_url}/v1", api_key=stack.dev_key, max_retries=0, timeout=LONG) as client,
    ):
        served = Served(stack, GatewayClient(stack), client, DirectTriton(stack.triton_url), adapters.dir)
        learned.result()
        for name in TAUGHT:
            assert served.add(name).status_code == httpx.codes.CREATED
        yield served
        served.direct.close()


def test_trained_adapters_change_the_answers_and_the_base_keeps_its_own(served: Served) -> None:
    """In one batch, with streams and without."""
    asked = [(model, stream) for model in (served.base, *TAUGHT) for stream in (False, True)] * 2
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(lambda one: served.ask(one[0], stream=one[1]), asked))
    for (model, _), answer in zip(asked, answers, strict=True):
        assert answer
        assert [name for name, taught in TAUGHT.items() if answer.startswith(taught)] == [model] * (model in TAUGHT)


def test_an_adapter_is_a_model_with_a_parent_and_metrics_of_its_own(served: Served) -> None:
    listed = {one.id: one.model_extra or {} for one in served.api.models.list()}
    assert [listed[name]["parent"] for name in (served.base, *TAUGHT)] == [None, served.base, served.base]
    before = served.sum_of('trireme_adapter_requests_total{adapter="boats"')
    assert served.ask("boats@1", stream=True) == served.ask("boats")
    assert served.sum_of('trireme_adapter_requests_total{adapter="boats"') == before + 2
    wait_until(lambda: served.sum_of("trireme_engine_adapters{") == len(served.shelf["loaded"]), "it is on the page")
    assert served.sum_of("trireme_engine_adapter_loads_total{") >= len(TAUGHT)
    with pytest.raises(openai.NotFoundError):
        served.ask("boats@2")


def test_the_base_is_undisturbed_when_every_slot_is_in_use(served: Served) -> None:
    alone = {model: served.likelihoods(model) for model in (served.base, *TAUGHT)}
    assert all(np.abs(alone[name] - alone[served.base]).max() > CHANGE for name in TAUGHT)
    others = [served.client.ask(model=name, stream=True, max_tokens=2000, ignore_eos=True) for name in TAUGHT]
    wait_until(lambda: served.direct.control(control="stats")["running"] == MAX_LORAS, "every slot is in use")
    beside = served.likelihoods(served.base)
    assert served.direct.control(control="stats")["running"] == MAX_LORAS
    for one in others:
        one.leave()
    assert np.abs(beside - alone[served.base]).max() < ROUNDING
    wait_until(lambda: served.direct.control(control="stats")["running"] == 0, "nobody is asking any more")
    assert np.abs(served.likelihoods(served.base) - alone[served.base]).max() < ROUNDING


def test_the_pages_examples_work_one_after_the_other(served: Served, tmp_path: Path) -> None:
    for number, path in enumerate(("pirate/1", "team-a/pirate-v2")):
        served.write(path, number)
    blocks = blocks_for("adapters")
    assert len(blocks) == 4
    for block in blocks:
        check_example(block, served.stack, tmp_path)
    url = f"{served.stack.gateway_url}{ADAPTERS}/pirate"
    assert httpx.delete(url, headers=served.client.headers, timeout=LONG).status_code == httpx.codes.OK


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
    stop, processes = Event(), served.processes()

    def talk(model: str) -> int:
        """How often; fails as soon as it gets no answer."""
        times = 0
        while not stop.is_set():
            served.ask(model, max_tokens=8)
            times += 1
        return times

    assert served.add("swapped", "first", path="swapped/0").status_code == httpx.codes.CREATED
    memory = []
    with ThreadPoolExecutor(3) as pool:
        talkers = [pool.submit(talk, model) for model in (served.base, "boats", "swapped")]
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
    assert all(one.result() > 0 for one in talkers)
    assert shelf["loads"] >= SWAPS
    assert set(processes) <= set(served.processes()), "none was started again: the base model was loaded once"
    assert len(shelf["loaded"]) <= IN_MEMORY
    assert max(memory[-WARM_UP:]) - max(memory[:WARM_UP]) < GROWTH_BYTES
