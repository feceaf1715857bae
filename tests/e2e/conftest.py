"""The whole stack with real models, started once: vLLM with SmolLM2, MiniLM, tritonserver, Valkey, the gateway."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.support.triton import DirectTriton
from trireme.settings import Model
from trireme.stack import EmbeddedStack, isolated_settings

MAX_NUM_SEQS = 4
# MiniLM once more, by another name: with another pooling, and as if it had been trained for short vectors.
SECOND_EMBEDDING_MODEL = "minilm-cls"
LITTLE_MODEL = "smollm2-short"
# The chance that an answer is good, by how hard the question is.
QUALITY_BY_SCORE = [[0, 1], [1, 0]]


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    """Few slots in the engine, so that tests can fill them, and no test tokens among those that they count."""
    state = tmp_path_factory.mktemp("stack")
    arguments = {**isolated_settings(state).engine_args, "max_num_seqs": MAX_NUM_SEQS}
    second = {"pooling": "cls", "poolings": ["mean", "last"], "matryoshka": [64, 128]}
    embedding = isolated_settings(state).embedding_model.path
    models = {SECOND_EMBEDDING_MODEL: {"model": str(embedding), **second}}
    gateway = {"routing": {"generation_interval_s": 3600.0}, **routers(isolated_settings(state).model)}
    settings = isolated_settings(
        state, engine="vllm", engine_args=arguments, embedding_args={"models": models}, gateway=gateway
    )
    with EmbeddedStack(settings) as running:
        yield running


def routers(model: Model) -> dict[str, Any]:
    """Of the gateway: SmolLM2 once more, by another name and with less context, and a router between the two."""
    candidates = [
        {"model": LITTLE_MODEL, "quality": QUALITY_BY_SCORE, "cost": 1},
        {"model": model.name, "quality": [[0, 1], [1, 1]], "cost": 10},
    ]
    return {
        "models": {"more": [{"name": LITTLE_MODEL, "dir": str(model.path), "max_model_len": 512}]},
        "choosing": {"routers": [{"name": "auto", "candidates": candidates, "target": 0.65, "sticky_s": 0}]},
        "triton": {"plan_timeout_s": 10.0},
    }


@pytest.fixture(scope="session")
def model(stack: EmbeddedStack) -> str:
    return stack.settings.model.name


@pytest.fixture(scope="session")
def client(stack: EmbeddedStack) -> Iterator[openai.OpenAI]:
    """Retries are off: every answer is the first."""
    with openai.OpenAI(base_url=f"{stack.gateway_url}/v1", api_key=stack.dev_key, max_retries=0) as one:
        yield one


@pytest.fixture(scope="session")
def direct(stack: EmbeddedStack) -> Iterator[DirectTriton]:
    one = DirectTriton(stack.triton_url)
    yield one
    one.close()
