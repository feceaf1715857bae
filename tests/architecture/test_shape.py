"""The promises about the code's shape that no linter checks. Layers: .importlinter, in `make check`."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODEL_LINES = 60
PIPELINE_LINES = 45
MODULE_LINES = 400
PACKAGES = ("control_plane", "gateway", "python_backends", "trireme", "benchmarks")


def modules() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", sorted((ROOT / "model_repository").glob("*/*/model.py")), ids=str)
def test_a_triton_model_only_wires(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= MODEL_LINES


def test_the_request_path_can_be_read_in_a_minute() -> None:
    tree = ast.parse((ROOT / "gateway" / "pipeline.py").read_text("utf-8"))
    (pipeline,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Pipeline"]
    (run,) = [node for node in pipeline.body if isinstance(node, ast.AsyncFunctionDef) and node.name == "run"]
    assert run.end_lineno is not None
    assert run.end_lineno - run.lineno < PIPELINE_LINES


def test_no_module_has_grown_out_of_sight() -> None:
    sizes = {str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in modules()}
    assert {path: lines for path, lines in sizes.items() if lines > MODULE_LINES} == {}


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in modules()
        if path.read_text("utf-8").strip() and not ast.get_docstring(ast.parse(path.read_text("utf-8")))
    ]
    assert silent == []


def test_every_python_model_has_a_version_directory_and_a_configuration() -> None:
    for directory in (path for path in (ROOT / "model_repository").iterdir() if path.is_dir()):
        assert (directory / "config.pbtxt").is_file(), directory
        assert (directory / "1").is_dir(), directory
