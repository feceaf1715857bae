"""Settings: three layers, checked whole."""

from pathlib import Path

import pytest

from gateway.config import ConfigError, load, reference

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def good(model_dir: Path, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "pepper").write_text("ab" * 32)
    return {
        "TRIREME_MODEL_NAME": "tiny",
        "TRIREME_MODEL_DIR": str(model_dir),
        "TRIREME_PEPPER_FILE": str(tmp_path / "pepper"),
    }


def problems(environ: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load(environ)
    return raised.value.problems


def with_yaml(good: dict[str, str], tmp_path: Path, text: str) -> dict[str, str]:
    file = tmp_path / "gateway.yaml"
    file.write_text(text)
    return good | {"TRIREME_CONFIG": str(file)}


def test_defaults_are_enough_beside_model_and_pepper(good: dict[str, str]) -> None:
    settings = load(good)
    assert (settings.http.host, settings.http.port) == ("127.0.0.1", 8080)
    assert settings.models.embedding_model_name is None


def test_a_variable_wins_over_the_file_and_the_file_over_the_default(good: dict[str, str], tmp_path: Path) -> None:
    environ = with_yaml(good, tmp_path, "admission: {max_running: 3, max_queued: 4}\nhttp: {metrics_key: true}\n")
    settings = load(environ | {"TRIREME_MAX_QUEUED": "5"})
    assert (settings.admission.max_running, settings.admission.max_queued) == (3, 5)
    assert settings.http.metrics_key is True


def test_all_problems_are_reported_together(good: dict[str, str], tmp_path: Path) -> None:
    environ = with_yaml(good, tmp_path, "admission: {max_runing: 3}\nnonsense: {}\nhttp: {port: '80'}\nlog: 3\n")
    environ |= {"TRIREME_QUEUE_TIMEOUT_S": "0", "TRIREME_LOG_LEVEL": "loud", "TRIREME_MODEL_NAME": ""}
    found = problems(environ)
    assert len(found) == 7
    for start in (
        "nonsense: there is no such section",
        "admission.max_runing: there is no such setting",
        "http.port (TRIREME_PORT)",
        "log: must be a mapping",
        "admission.queue_timeout_s (TRIREME_QUEUE_TIMEOUT_S)",
        "log.level (TRIREME_LOG_LEVEL)",
        "models.model_name (TRIREME_MODEL_NAME): must be set",
    ):
        assert any(one.startswith(start) for one in found), start


def test_contradictions_are_found(good: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "short").write_text("abcd")
    environ = good | {
        "TRIREME_DEFAULT_DEADLINE_S": "7200",
        "TRIREME_EMBEDDING_MODEL_NAME": "e",
        "TRIREME_MAX_RUNNING_TOKENS": "10",
        "TRIREME_PEPPER_FILE": str(tmp_path / "short"),
    }
    found = "\n".join(problems(environ))
    for part in ("default_deadline_s", "embedding_model_dir", "max_running_tokens", "pepper_file"):
        assert part in found


@pytest.mark.parametrize("text", ["[1]", "a: [", "\tb"])
def test_a_file_that_makes_no_sense(good: dict[str, str], tmp_path: Path, text: str) -> None:
    (problem,) = problems(with_yaml(good, tmp_path, text))
    assert problem.startswith("TRIREME_CONFIG")


def test_files_that_are_missing(good: dict[str, str], tmp_path: Path) -> None:
    environ = good | {"TRIREME_MODEL_DIR": str(tmp_path), "TRIREME_PEPPER_FILE": str(tmp_path / "none")}
    found = "\n".join(problems(environ))
    assert "config.json" in found
    assert "pepper_file" in found
    (problem,) = problems(good | {"TRIREME_CONFIG": str(tmp_path / "none.yaml")})
    assert "cannot be read" in problem


def test_the_reference_is_up_to_date() -> None:
    """`python -m gateway.config > docs/settings.md`"""
    assert (ROOT / "docs" / "settings.md").read_text() == reference()
