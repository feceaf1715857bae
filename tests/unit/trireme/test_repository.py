"""The model repository that Triton loads, as versions are added to it and taken away."""

import json
from pathlib import Path

import pytest

from trireme.errors import TriremeError
from trireme.repository import NO_BYTECODE, Repository, assemble_repository
from trireme.settings import ROOT

SHIPPED = ROOT / "model_repository"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return assemble_repository(SHIPPED, tmp_path / "repository")


def files(path: Path) -> set[str]:
    return {str(one.relative_to(path)) for one in path.rglob("*") if one.is_file()}


def pins(repository: Repository, ensemble: str) -> dict[str, str]:
    """Version of each step's model."""
    text = (repository.path / ensemble / "config.pbtxt").read_text()
    words = text.replace('"', " ").split()
    names = [words[at + 1] for at, word in enumerate(words) if word == "model_name:"]
    versions = [words[at + 1] for at, word in enumerate(words) if word == "model_version:"]
    return dict(zip(names, versions, strict=True))


def test_it_begins_with_what_is_shipped(repository: Repository) -> None:
    assert (repository.versions, repository.default, repository.ensemble("1")) == (["1"], "1", "chat")
    models = {path.name for path in repository.path.iterdir() if path.is_dir()}
    assert models == {path.name for path in SHIPPED.iterdir() if path.is_dir()}
    for name in ("vllm/1/engine.json", "vllm/1/model.py", "vllm/config.pbtxt", "chat/config.pbtxt", "embed/1/model.py"):
        assert (repository.path / name).read_text() == (SHIPPED / name).read_text()


def test_python_can_keep_nothing_beside_a_version(repository: Repository) -> None:
    """A newer file there would make Triton load the version anew, and lose its streams."""
    repository.add("2", {})
    code = list(repository.path.rglob("model.py"))
    assert len(code) >= 6
    assert all((one.parent / NO_BYTECODE).is_file() for one in code)


def test_a_version_has_its_own_engine_and_ensemble_and_changes_no_other(repository: Repository) -> None:
    before = {name: (repository.path / name).stat().st_mtime_ns for name in files(repository.path)}
    assert repository.add("2", {"model": "/models/new", "max_model_len": 64}) == "chat_2"
    assert repository.versions == ["1", "2"]
    assert repository.default == "1"
    assert repository.overrides("2") == {"model": "/models/new", "max_model_len": 64}
    assert repository.overrides("1") == {}
    assert pins(repository, "chat") == {"preprocess": "1", "vllm": "1", "postprocess": "-1"}
    assert pins(repository, "chat_2") == {"preprocess": "2", "vllm": "2", "postprocess": "-1"}
    assert (repository.path / "chat_2" / "2").is_dir()
    engine = json.loads((repository.path / "vllm/2/engine.json").read_text())
    assert engine["args"] == json.loads((SHIPPED / "vllm/1/engine.json").read_text())["args"]
    assert {name: (repository.path / name).stat().st_mtime_ns for name in before} == before


def test_a_removed_version_leaves_nothing(repository: Repository) -> None:
    before = files(repository.path)
    repository.add("2", {})
    repository.remove("2")
    assert files(repository.path) == before
    assert repository.versions == ["1"]


def test_the_default_moves_to_another_version(repository: Repository) -> None:
    repository.add("12", {})
    repository.make_default("12")
    assert repository.default == "12"
    assert pins(repository, "chat") == {"preprocess": "12", "vllm": "12", "postprocess": "-1"}
    repository.remove("1")
    assert repository.versions == ["12"]
    assert repository.add("1", {}) == "chat_1"
    assert pins(repository, "chat_1") == {"preprocess": "1", "vllm": "1", "postprocess": "-1"}
    repository.make_default("1")
    assert pins(repository, "chat") == {"preprocess": "1", "vllm": "1", "postprocess": "-1"}


def test_the_next_start_keeps_versions_and_brings_the_shipped_code(repository: Repository) -> None:
    repository.add("2", {"max_model_len": 64})
    repository.prove("2")
    repository.make_default("2")
    repository.remove("1")
    for name in ("vllm/2/model.py", "chat/config.pbtxt", "chat_2/config.pbtxt", "vllm/config.pbtxt"):
        (repository.path / name).write_text("of an older release")
    again = assemble_repository(SHIPPED, repository.path)
    assert (again.versions, again.default, again.ensemble("2")) == (["2"], "2", "chat_2")
    assert again.overrides("2") == {"max_model_len": 64}
    assert (again.path / "vllm/2/model.py").read_text() == (SHIPPED / "vllm/1/model.py").read_text()
    assert pins(again, "chat") == pins(again, "chat_2") == {"preprocess": "2", "vllm": "2", "postprocess": "-1"}
    assert not (again.path / "vllm" / "1").exists()


def test_a_version_whose_loading_was_never_finished_is_gone_at_the_next_start(repository: Repository) -> None:
    before = files(repository.path)
    repository.add("2", {})
    again = assemble_repository(SHIPPED, repository.path)
    assert again.versions == ["1"]
    assert files(again.path) == before


def test_models_that_are_shipped_no_more_are_gone_at_the_next_start(repository: Repository) -> None:
    (repository.path / "retired" / "1").mkdir(parents=True)
    (repository.path / "chat_9" / "9").mkdir(parents=True)
    assemble_repository(SHIPPED, repository.path)
    assert not (repository.path / "retired").exists()
    assert not (repository.path / "chat_9").exists()


def test_numbers_are_not_taken_twice(repository: Repository) -> None:
    with pytest.raises(TriremeError, match="unload it first"):
        repository.add("1", {})


def test_two_changes_at_a_time_are_refused(repository: Repository) -> None:
    with (
        repository.locked(),
        pytest.raises(TriremeError, match="Somebody else is changing"),
        Repository(repository.path).locked(),
    ):
        pass
    with repository.locked():
        pass
