"""The prepared models: contract tests hold their tokenizers and templates against other implementations."""

from pathlib import Path

import pytest

from trireme.models import prepare_models
from trireme.settings import load_settings


@pytest.fixture(scope="session")
def generation_model() -> Path:
    """The directory of SmolLM2, prepared now if it was not."""
    settings = load_settings(environ={})
    prepare_models(settings, lambda line: None)
    return settings.model.path
