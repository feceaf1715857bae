"""Two real engines side by side in one Triton: other weights under the same name, while the first goes on."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.support.gateway import GatewayClient, plain_http, wait_until
from tests.support.versions import versions_of
from trireme.errors import TriremeError
from trireme.stack import EmbeddedStack
from trireme.versions import Versions, check_model_dir

pytestmark = pytest.mark.e2e
QUESTION: dict[str, Any] = {
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "temperature": 0,
    "max_tokens": 12,
}
PATIENCE_S = 600.0


@pytest.fixture
def other_weights(stack: EmbeddedStack, tmp_path: Path) -> Path:
    """SmolLM2 with its last norm turned round: what was likeliest is the least likely."""
    from safetensors.torch import load_file, save_file

    directory = tmp_path / "turned"
    shutil.copytree(stack.settings.model.path, directory)
    for file in directory.glob("*.safetensors"):
        tensors = load_file(file)
        for name in tensors:
            if name == "model.norm.weight":
                tensors[name] = -tensors[name]
        save_file(tensors, file, metadata={"format": "pt"})
    return directory


@pytest.fixture
def versions(stack: EmbeddedStack) -> Iterator[Versions]:
    """Leaves only the first behind."""
    one = versions_of(stack)
    yield one
    with suppress(TriremeError):
        one.unload("2", PATIENCE_S)


class Story(threading.Thread):
    """One long stream."""

    def __init__(self, client: openai.OpenAI, model: str) -> None:
        super().__init__()
        self._client = client
        self._model = model
        self.pieces: list[str] = []
        self.finish: str | None = None

    def run(self) -> None:
        messages: Any = [{"role": "user", "content": "Tell a long story about a boat."}]
        for chunk in self._client.chat.completions.create(
            model=self._model, messages=messages, temperature=0, max_tokens=300, stream=True
        ):
            self.pieces.append(chunk.choices[0].delta.content or "")
            self.finish = chunk.choices[0].finish_reason or self.finish


@pytest.mark.timeout(900)
def test_other_weights_answer_beside_the_first_ones_and_go_again(
    stack: EmbeddedStack, client: openai.OpenAI, model: str, versions: Versions, other_weights: Path
) -> None:
    gateway = GatewayClient(stack)
    check_model_dir(other_weights, stack.settings.model.path)
    before = client.chat.completions.create(model=model, **QUESTION).choices[0].message.content
    story = Story(client, model)
    story.start()
    wait_until(lambda: len(story.pieces) > 3, "the story begins")
    versions.load("2", {"model": str(other_weights), "max_model_len": 4096, "max_num_seqs": 2}, PATIENCE_S)
    wait_until(lambda: gateway.get(f"/v1/models/{model}@2").status_code == httpx.codes.OK, "the gateway knows it")
    first, second = (gateway.chat(**QUESTION, model=f"{model}@{version}") for version in ("1", "2"))
    assert [one.headers["x-model-version"] for one in (first, second)] == ["1", "2"]
    assert text_of(first) == before
    assert "Paris" in text_of(first)
    assert text_of(second)
    assert "Paris" not in text_of(second)
    wait_until(lambda: 'version="2"' in plain_http().get(stack.metrics_url).text, "its metrics are exported")
    story.join()
    assert story.finish in ("length", "stop")
    versions.unload("2", PATIENCE_S)
    wait_until(
        lambda: gateway.get(f"/v1/models/{model}@2").status_code == httpx.codes.NOT_FOUND, "the gateway has heard of it"
    )
    assert text_of(gateway.chat(**QUESTION)) == before


def text_of(response: httpx.Response) -> str:
    assert response.status_code == httpx.codes.OK, response.text
    text: str = response.json()["choices"][0]["message"]["content"]
    return text
