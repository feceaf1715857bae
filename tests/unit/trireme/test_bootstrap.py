"""The bootstrap does nothing when nothing changed, and starts over after anything else."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from trireme import bootstrap
from trireme.bootstrap import BootstrapError, Venv

ROOT = Path(bootstrap.__file__).parent.parent


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "requirements.lock").write_text("# a comment\n\ntorch==2.13.0+cpu\nnumpy==1.26.4  # not 2\n")
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    return tmp_path


@pytest.fixture
def venv(tmp_path: Path) -> Venv:
    """Complete as far as a look at the files can tell."""
    made = Venv(tmp_path / ".venv")
    made.python.parent.mkdir(parents=True)
    made.python.symlink_to(sys.executable)
    made.stamp.write_text("fingerprint")
    return made


@pytest.mark.parametrize("name", ["bootstrap.py", "machine.py", "__init__.py"])
def test_what_runs_on_the_users_python_parses_on_python_3_6(name: str) -> None:
    source = (ROOT / "trireme" / name).read_text()
    ast.parse(source, feature_version=(3, 6))
    assert "from __future__" not in source  # 3.6 knows no `annotations` there


@pytest.mark.parametrize("name", ["bootstrap.py", "machine.py", "launch.py"])
def test_what_runs_before_the_installation_needs_the_standard_library_only(name: str) -> None:
    tree = ast.parse((ROOT / "trireme" / name).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    foreign = {module.split(".")[0] for module in imported} - sys.stdlib_module_names
    assert foreign <= {"trireme"}


def test_a_second_run_is_a_no_op(venv: Venv) -> None:
    assert venv.is_current("fingerprint")


def test_another_lock_makes_it_stale(venv: Venv) -> None:
    assert not venv.is_current("another fingerprint")


def test_an_interrupted_installation_left_no_stamp_and_is_done_again(venv: Venv) -> None:
    venv.stamp.unlink()
    assert not venv.is_current("fingerprint")


def test_an_interpreter_that_was_removed_is_noticed(venv: Venv) -> None:
    venv.python.unlink()
    venv.python.symlink_to("/nowhere/python3")
    assert not venv.is_current("fingerprint")
    assert not venv.is_usable()


def test_an_environment_of_another_python_is_not_usable(venv: Venv) -> None:
    venv.python.unlink()
    venv.python.write_text("#!/bin/sh\necho '/usr 3.9.2 (default)'\n")
    venv.python.chmod(0o755)
    assert not venv.is_usable()


def test_the_environment_of_this_python_is_usable(venv: Venv) -> None:
    venv.python.unlink()
    venv.python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    venv.python.chmod(0o755)
    assert venv.is_usable()


def test_the_fingerprint_follows_lock_and_project_file(project: Path) -> None:
    before = bootstrap.fingerprint_of(project)
    assert bootstrap.fingerprint_of(project) == before
    with (project / "requirements.lock").open("a") as lock:
        lock.write("rich==15.0.0\n")
    after = bootstrap.fingerprint_of(project)
    assert after != before
    (project / "pyproject.toml").write_text("[project]\nname = 'y'\n")
    assert bootstrap.fingerprint_of(project) != after


def test_comments_in_the_lock_are_left_out(project: Path) -> None:
    lock = project / "requirements.lock"
    assert bootstrap.requirements(lock) == ["torch==2.13.0+cpu", "numpy==1.26.4"]
    assert bootstrap.pinned(lock, "torch") == "torch==2.13.0+cpu"
    with pytest.raises(BootstrapError, match="does not name vllm"):
        bootstrap.pinned(lock, "vllm")


def test_every_line_of_the_real_lock_is_one_exact_version() -> None:
    pinned = bootstrap.requirements(ROOT / "requirements.lock")
    names = [requirement.split("==")[0].lower().replace("_", "-") for requirement in pinned]
    assert all(requirement.count("==") == 1 and " " not in requirement for requirement in pinned)
    assert len(set(names)) == len(names)
    assert "numpy==1.26.4" in pinned
    assert not {"torchvision", "torchaudio", "torchcodec", "opencv-python-headless"} & set(names)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], "starting pip"),
        (
            ["Collecting rich==15.0.0 (from -r lock (line 3))", "  Downloading rich"],
            "1 packages found; Collecting rich",
        ),
        (["Processing /wheels/torch.whl", "Installing collected packages: torch"], "unpacking 1 packages"),
    ],
)
def test_signs_of_life_say_what_pip_is_at(lines: list[str], expected: str) -> None:
    assert bootstrap.progress(lines).startswith(expected)


def test_failing_pip_is_told_with_its_last_words(venv: Venv) -> None:
    venv.python.unlink()
    venv.python.write_text("#!/bin/sh\necho 'ERROR: No matching distribution found for nonsense==1'\nexit 1\n")
    venv.python.chmod(0o755)
    with pytest.raises(BootstrapError, match="No matching distribution found for nonsense"):
        bootstrap._pip(venv, ["nonsense==1"], bootstrap.Steps(), "installing nonsense")


def test_the_bootstrap_of_this_very_environment_costs_well_under_a_second() -> None:
    command = [sys.executable, "-c", "import trireme.bootstrap as b; print(b.Venv(b.ROOT / '.venv').is_current(''))"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=5, check=True)
    assert result.stdout.strip() == "False"
