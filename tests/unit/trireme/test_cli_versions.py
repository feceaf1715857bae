"""`trireme versions`: what is refused before any Triton is asked, and what is said when none answers."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from trireme.claims import free_ports
from trireme.cli_versions import app
from trireme.errors import TriremeError
from trireme.repository import assemble_repository
from trireme.settings import ROOT
from trireme.triton_control import TritonControl
from trireme.versions import check_model_dir

Run = Callable[..., Result]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return assemble_repository(ROOT / "model_repository", tmp_path / "repository").path


@pytest.fixture
def run(valkey_url: str, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Against a Triton that is not there."""
    monkeypatch.setenv("TRIREME_VALKEY_URL", valkey_url)
    (port,) = free_ports(1)
    nowhere = ["--triton", f"http://127.0.0.1:{port}", "--triton-grpc", f"127.0.0.1:{port}"]

    def run(command: str, *arguments: str, directory: Path = repository) -> Result:
        result = CliRunner().invoke(app, [command, *arguments, *nowhere, "--repository", str(directory)])
        if isinstance(result.exception, TriremeError):
            raise result.exception
        return result

    return run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["2", "--engine-args", "{"], "--engine-args is not JSON"),
        (["2", "--engine-args", "[1]"], "must be a JSON object"),
        (["2", "--engine-args", '{"model": "/x"}'], "is given with --model-dir"),
        (["2", "--model-dir", "/nonexistent"], r"holds no config.json, no tokenizer.json, no \*.safetensors"),
        (["1"], "Version 1 is in .* already"),
    ],
)
def test_a_load_that_makes_no_sense_is_refused(run: Run, arguments: list[str], words: str) -> None:
    with pytest.raises(TriremeError, match=words):
        run("load", *arguments)


@pytest.mark.parametrize("version", ["0", "-1", "two"])
def test_a_version_is_a_number_from_one(run: Run, version: str) -> None:
    assert run("load", version).exit_code == 2


def test_without_a_repository_it_is_said_how_to_get_one(run: Run, tmp_path: Path) -> None:
    with pytest.raises(TriremeError, match=r"There is no model repository in .*: start the stack"):
        run("list", directory=tmp_path / "nothing")


def test_without_a_triton_its_address_is_named(run: Run) -> None:
    with pytest.raises(TriremeError, match=r"does not tell what it has loaded \(gRPC 127.0.0.1:"):
        run("list")
    with pytest.raises(TriremeError, match="could not load chat"):
        TritonControl("127.0.0.1:1").load("chat", 1.0)


def test_the_only_version_is_not_unloaded(run: Run) -> None:
    with pytest.raises(TriremeError, match="Version 1 is the only one: load another one first"):
        run("unload", "1")
    with pytest.raises(TriremeError, match="There is no version 9; there are: 1"):
        run("unload", "9")


def model_dir(path: Path, tokenizer: str = "{}", template: str = "{{ x }}", *, jinja: bool = False) -> Path:
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "tokenizer.json").write_text(tokenizer)
    (path / "model.safetensors").touch()
    (path / "tokenizer_config.json").write_text(json.dumps({} if jinja else {"chat_template": template}))
    if jinja:
        (path / "chat_template.jinja").write_text(template)
    return path


def test_a_version_has_the_tokenizer_and_the_template_of_the_others(tmp_path: Path) -> None:
    served = model_dir(tmp_path / "served")
    check_model_dir(served, served)
    check_model_dir(model_dir(tmp_path / "same"), served)
    check_model_dir(model_dir(tmp_path / "moved", jinja=True), served)
    with pytest.raises(TriremeError, match="another tokenizer than"):
        check_model_dir(model_dir(tmp_path / "words", tokenizer='{"other": 1}'), served)
    with pytest.raises(TriremeError, match="another chat template than"):
        check_model_dir(model_dir(tmp_path / "phrases", template="{{ y }}"), served)
    with pytest.raises(TriremeError, match="another chat template than"):
        check_model_dir(model_dir(tmp_path / "files", template="{{ y }}", jinja=True), served)
