"""The prepared models, which contract tests hold against other implementations, and vLLM's scheduler with ours."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from python_backends.llm.vllm_engine import prepare_process
from tests.contract.scheduling import Build
from trireme.models import prepare_models
from trireme.settings import load_settings

# Scheduler, and steps in flight.
WAYS = {
    "synchronous": ("PreemptiveScheduler", 1),
    "pipeline parallel": ("PreemptiveScheduler", 2),
    "asynchronous": ("AsyncPreemptiveScheduler", 2),
}


@pytest.fixture(scope="session")
def generation_model() -> Path:
    """The directory of SmolLM2, prepared now if it was not."""
    settings = load_settings(environ={})
    prepare_models(settings, lambda line: None)
    return settings.model.path


@pytest.fixture(scope="module")
def schedulers() -> Any:
    prepare_process(eager=True)
    from python_backends.llm import vllm_scheduler

    return vllm_scheduler


@pytest.fixture(scope="module", params=list(WAYS))
def build(schedulers: Any, generation_model: Path, request: pytest.FixtureRequest) -> Build:
    """Makes an engine core around the scheduler."""
    from tests.support.vllm_steps import Steps

    name, depth = WAYS[request.param]
    return partial(Steps, getattr(schedulers, name), generation_model, depth)
