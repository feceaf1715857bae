"""Triton's backend directory, command line and environment."""

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from trireme.repository import Repository, assemble_repository
from trireme.settings import Settings
from trireme.stack import isolated_settings
from trireme.triton import (
    STUB,
    added_versions,
    assemble_backends,
    temporary_directory,
    triton_command,
    triton_environment,
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return isolated_settings(tmp_path, triton_models=("preprocess", "chat"))


def test_the_backend_directory_holds_library_helper_and_the_stub_of_this_python(tmp_path: Path) -> None:
    python = assemble_backends(tmp_path) / "python"
    assert {path.name for path in python.iterdir()} == {"libtriton_python.so", "triton_python_backend_utils.py", STUB}
    assert (python / STUB).stat().st_mode & 0o111
    assert f"libpython{sys.version_info.major}.{sys.version_info.minor}.so".encode() in (python / STUB).read_bytes()


def test_assembling_again_changes_nothing(tmp_path: Path) -> None:
    stub = assemble_backends(tmp_path) / "python" / STUB
    before = stub.stat().st_ino
    assemble_backends(tmp_path)
    assert stub.stat().st_ino == before


def test_a_damaged_file_is_replaced(tmp_path: Path) -> None:
    stub = assemble_backends(tmp_path) / "python" / STUB
    stub.write_bytes(b"half a file")
    assemble_backends(tmp_path)
    assert stub.stat().st_size > 1_000_000


def test_all_three_servers_are_told_to_stay_on_loopback(settings: Settings) -> None:
    command = triton_command(settings, Path("/backends"), Repository(settings.model_repository))
    for server in ("http", "grpc", "metrics"):
        assert f"--{server}-address=127.0.0.1" in command
        port = getattr(settings.ports, f"triton_{server}")
        assert f"--{server}-port={port}" in command


def test_only_the_chosen_models_are_loaded(settings: Settings) -> None:
    command = triton_command(settings, Path("/backends"), Repository(settings.model_repository))
    assert [flag for flag in command if flag.startswith("--load-model")] == [
        "--load-model=preprocess",
        "--load-model=chat",
    ]
    assert "--model-control-mode=explicit" in command
    assert "--backend-directory=/backends" in command


def test_versions_that_were_added_are_loaded_by_name_where_models_are(settings: Settings, tmp_path: Path) -> None:
    repository = assemble_repository(settings.model_repository, tmp_path / "repository")
    assert added_versions(settings, repository) == []
    repository.add("2", {})
    assert added_versions(settings, repository) == [], "it may never work"
    repository.prove("2")
    assert added_versions(settings, repository) == ["--load-model=chat_2"]
    for models in (("*",), ("embed",)):
        assert added_versions(replace(settings, triton_models=models), repository) == []
    repository.remove("2")
    assert added_versions(settings, repository) == []


def test_the_model_processes_find_their_interpreter_and_their_settings(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere/else")
    environment = triton_environment(settings)
    assert environment["PATH"].split(":")[0] == str(Path(sys.prefix) / "bin")
    libraries = [Path(place) for place in environment["LD_LIBRARY_PATH"].split(":")]
    assert any(libraries[0].glob("libpython3*.so.1.0"))
    assert libraries[1].name == "nvidia_pytriton.libs"
    assert "PYTHONPATH" not in environment
    assert environment["TRIREME_ENGINE"] == "scripted"
    assert environment["TRIREME_MODEL_DIR"] == str(settings.model.path)
    assert json.loads(environment["TRIREME_ENGINE_ARGS"])["max_num_seqs"] == 32
    assert int(environment["VLLM_CPU_KVCACHE_SPACE"]) == 1


def test_nothing_is_fetched_reported_or_cached_outside(settings: Settings) -> None:
    environment = triton_environment(settings)
    assert environment["HF_HUB_OFFLINE"] == environment["VLLM_NO_USAGE_STATS"] == environment["DO_NOT_TRACK"] == "1"
    for name in ("VLLM_CACHE_ROOT", "VLLM_CONFIG_ROOT", "TORCHINDUCTOR_CACHE_DIR", "HF_HOME"):
        assert Path(environment[name]).is_relative_to(settings.state_dir)


def test_temporary_files_of_a_killed_server_are_gone_at_the_next_start() -> None:
    with tempfile.TemporaryDirectory(prefix="t-") as short:
        directory = temporary_directory(Path(short))
        assert directory is not None
        (directory / "socket").touch()
        assert temporary_directory(Path(short)) == directory
        assert list(directory.iterdir()) == []


def test_a_path_too_long_for_a_socket_is_not_used(tmp_path: Path) -> None:
    assert temporary_directory(tmp_path / ("x" * 60)) is None
