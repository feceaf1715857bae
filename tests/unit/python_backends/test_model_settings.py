"""How the engine runs: `engine.json`, and what overrides it."""

import json
from pathlib import Path
from typing import Any

import pytest

from python_backends.preprocessing.dialect import Parsers
from python_backends.runtime.settings import EngineSettings, generation_settings


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "vllm" / "1").mkdir(parents=True)
    return tmp_path


def read(repository: Path, declared: dict[str, Any], **environment: str) -> EngineSettings:
    (repository / "vllm" / "1" / "engine.json").write_text(json.dumps({"args": {"max_model_len": 64}, **declared}))
    return generation_settings(repository, "1", {"TRIREME_MODEL_DIR": "/models/one", **environment})


def test_preemption_is_on_unless_it_is_declared_off(repository: Path) -> None:
    assert read(repository, {}).preemption is True
    assert read(repository, {"preemption": False}).preemption is False


def test_the_environment_overrides_what_is_declared(repository: Path) -> None:
    assert read(repository, {"preemption": True}, TRIREME_PREEMPTION="false").preemption is False
    assert read(repository, {"preemption": False}, TRIREME_PREEMPTION="true").preemption is True


def test_parsers_are_what_the_template_shows_unless_they_are_declared_or_set(repository: Path) -> None:
    assert read(repository, {}).parsers == Parsers("auto", "auto")
    declared = {"tool_parser": "json", "reasoning_parser": "none"}
    assert read(repository, declared).parsers == Parsers("json", "none")
    assert read(repository, declared, TRIREME_TOOL_PARSER="hermes").parsers == Parsers("hermes", "none")


def test_a_switch_that_is_neither_true_nor_false_is_refused(repository: Path) -> None:
    with pytest.raises(ValueError, match="TRIREME_PREEMPTION is 'maybe': use one of true, false"):
        read(repository, {}, TRIREME_PREEMPTION="maybe")


def test_the_shipped_model_preempts() -> None:
    shipped = Path(__file__).parents[3] / "model_repository"
    settings = generation_settings(
        shipped, "1", {"TRIREME_MODEL_DIR": "/models/one", "TRIREME_ENGINE_ARGS": '{"max_model_len": 8}'}
    )
    assert settings.preemption
    assert settings.arguments["scheduling_policy"] == "priority"
    assert settings.arguments["enable_prefix_caching"]


def test_what_is_a_versions_own_overrides_the_environment(repository: Path) -> None:
    own = {"model": "/models/two", "max_model_len": 32}
    everybodys = {"TRIREME_ENGINE_ARGS": '{"max_model_len": 48, "max_num_seqs": 4}'}
    settings = read(repository, {"overrides": own}, **everybodys)
    assert (settings.model_dir, settings.max_model_len) == (Path("/models/two"), 32)
    assert settings.arguments == {"model": "/models/two", "max_model_len": 32, "max_num_seqs": 4}
    without = read(repository, {}, **everybodys)
    assert (without.model_dir, without.max_model_len) == (Path("/models/one"), 48)


def test_each_version_reads_its_own_file(repository: Path) -> None:
    (repository / "vllm" / "2").mkdir()
    (repository / "vllm" / "2" / "engine.json").write_text('{"args": {"max_model_len": 16}}')
    read(repository, {})
    assert generation_settings(repository, "2", {"TRIREME_MODEL_DIR": "/models/one"}).max_model_len == 16
