"""Models are prepared once, whole or not at all."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from trireme import models
from trireme.errors import Interrupted, TriremeError
from trireme.models import Stopped, prepare_models
from trireme.settings import Model, Settings
from trireme.stack import isolated_settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """MiniLM twice: the quick one, under the two names that are prepared."""
    minilm = Model("all-minilm-l6-v2", tmp_path / "models" / "all-minilm-l6-v2", prepared=True)
    settings = isolated_settings(tmp_path, models_dir=tmp_path / "models")
    return replace(settings, model=minilm, embedding_model=minilm)


def test_a_model_is_made_once_and_told(settings: Settings) -> None:
    said: list[str] = []
    prepare_models(settings, said.append)
    prepare_models(settings, said.append)
    assert said == ["preparing all-minilm-l6-v2 (once, 90 MB)"]


def test_a_prepared_model_is_complete_and_readable_by_all(settings: Settings) -> None:
    prepare_models(settings, lambda text: None)
    path = settings.model.path
    for name in ("config.json", "tokenizer.json", "model.safetensors", "1_Pooling/config.json"):
        assert (path / name).stat().st_mode & 0o777 == 0o644, name
    assert path.stat().st_mode & 0o777 == 0o755
    assert not (path / "model.safetensors").is_symlink()


def test_a_model_of_the_users_own_is_left_alone(tmp_path: Path) -> None:
    own = Model("mine", tmp_path / "mine", prepared=False)
    settings = replace(isolated_settings(tmp_path), models_dir=tmp_path / "models", model=own, embedding_model=own)
    prepare_models(settings, pytest.fail)
    assert not (tmp_path / "models").exists()


def test_a_failed_attempt_leaves_nothing_that_looks_like_a_model(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_half_way(target: Path, log: Path, stopped: Stopped) -> None:
        target.mkdir()
        (target / "config.json").touch()
        raise TriremeError("out of disk")

    monkeypatch.setattr(models, "_MAKERS", {"all-minilm-l6-v2": fail_half_way})
    with pytest.raises(TriremeError, match="out of disk"):
        prepare_models(settings, lambda text: None)
    assert [path.name for path in settings.models_dir.iterdir()] == [".lock"]


def test_a_stop_ends_a_conversion_at_once() -> None:
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as child:
        with pytest.raises(Interrupted):
            models._wait(child, lambda: True)
        child.kill()


def test_a_package_that_is_not_there_is_named() -> None:
    with pytest.raises(TriremeError, match="no_such_package is not installed: run `make setup`"):
        models.package_dir("no_such_package")
