"""The whole stack with real models, started once: vLLM with SmolLM2, MiniLM, tritonserver, Valkey, the gateway."""

from collections.abc import Iterator

import openai
import pytest

from tests.support.triton import DirectTriton
from trireme.stack import EmbeddedStack, isolated_settings

MAX_NUM_SEQS = 4
# MiniLM once more, by another name: with another pooling, and as if it had been trained for short vectors.
SECOND_EMBEDDING_MODEL = "minilm-cls"


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    """Few slots in the engine, so that tests can fill them, and no test tokens among those that they count."""
    state = tmp_path_factory.mktemp("stack")
    arguments = {**isolated_settings(state).engine_args, "max_num_seqs": MAX_NUM_SEQS}
    second = {"pooling": "cls", "poolings": ["mean", "last"], "matryoshka": [64, 128]}
    embedding = isolated_settings(state).embedding_model.path
    models = {SECOND_EMBEDDING_MODEL: {"model": str(embedding), **second}}
    quiet = {"routing": {"generation_interval_s": 3600.0}}
    settings = isolated_settings(
        state, engine="vllm", engine_args=arguments, embedding_args={"models": models}, gateway=quiet
    )
    with EmbeddedStack(settings) as running:
        yield running


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
