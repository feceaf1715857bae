"""What `trireme doctor` finds."""

import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from trireme import doctor
from trireme.claims import state_lock
from trireme.settings import Model
from trireme.stack import isolated_settings


def test_packages_as_in_the_lock_are_fine() -> None:
    check = doctor.check_packages(
        ["PyYAML==6.0.3", "mypy_extensions==1.2.0"], {"pyyaml": "6.0.3", "mypy-extensions": "1.2.0"}
    )
    assert check.problem == ""


def test_other_and_missing_packages_are_named_with_both_versions() -> None:
    problem = doctor.check_packages(["numpy==1.26.4", "rich==15.0.0"], {"numpy": "2.1.0"}).problem
    assert "numpy 2.1.0 (lock: 1.26.4), rich missing (lock: 15.0.0)" in problem
    assert "make setup" in problem


def test_a_long_list_of_differences_is_cut() -> None:
    check = doctor.check_packages([f"package{number}==1" for number in range(9)], {})
    assert check.found == "9 differ"
    assert "and 4 more" in check.problem


def test_a_model_that_is_not_prepared_yet_is_no_problem(tmp_path: Path) -> None:
    assert doctor.check_model(Model("m", tmp_path / "m", prepared=True)).problem == ""


@pytest.mark.parametrize(("prepared", "remedy"), [(True, "trireme prepare"), (False, "Give a complete directory")])
def test_an_incomplete_model_is_told_with_what_is_missing(tmp_path: Path, prepared: bool, remedy: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({}))
    problem = doctor.check_model(Model("m", tmp_path, prepared=prepared)).problem
    assert "tokenizer.json" in problem
    assert "*.safetensors" in problem
    assert remedy in problem


def test_too_little_memory_is_a_problem() -> None:
    assert doctor.check_memory(16.0).problem == ""
    assert "6 GB" in doctor.check_memory(3.0).problem
    assert "--shm-size" in doctor.check_shared_memory(10.0).problem


def test_a_busy_port_is_a_problem_and_a_running_stack_is_none(tmp_path: Path) -> None:
    settings = isolated_settings(tmp_path)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        settings = replace(settings, ports=replace(settings.ports, valkey=server.getsockname()[1]))
        problems = [check.problem for check in doctor.check_ports(settings) if check.problem]
        assert len(problems) == 1
        assert "TRIREME_VALKEY_PORT" in problems[0]
    with state_lock(tmp_path):
        assert [check.problem for check in doctor.check_ports(settings)] == [""]
