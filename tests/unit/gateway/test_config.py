"""Settings: three layers, checked whole."""

from pathlib import Path

import pytest

from gateway.accounting.settings import ModelPrice
from gateway.config import ConfigError, load, read_pepper, reference

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
    environ |= {"TRIREME_STANDARD_QUEUE_TIMEOUT_S": "0", "TRIREME_LOG_LEVEL": "loud", "TRIREME_MODEL_NAME": ""}
    found = problems(environ)
    assert len(found) == 7
    for start in (
        "nonsense: there is no such section",
        "admission.max_runing: there is no such setting",
        "http.port (TRIREME_PORT)",
        "log: must be a mapping",
        "admission.standard_timeout_s (TRIREME_STANDARD_QUEUE_TIMEOUT_S)",
        "log.level (TRIREME_LOG_LEVEL)",
        "models.model_name (TRIREME_MODEL_NAME): must be set",
    ):
        assert any(one.startswith(start) for one in found), start


def test_a_mapping_is_json_in_a_variable_and_a_mapping_in_the_file(good: dict[str, str], tmp_path: Path) -> None:
    prices = {"big": ModelPrice(prompt=2.5, completion=10)}
    environ = with_yaml(good, tmp_path, "accounting: {model_prices: {big: {prompt: 2.5, completion: 10}}}\n")
    assert load(environ).accounting.model_prices == prices
    given = {"TRIREME_MODEL_PRICES": '{"big": {"prompt": 2.5, "completion": 10}}'}
    assert load(good | given).accounting.model_prices == prices


@pytest.mark.parametrize("text", ["big=2.5", '{"big": 2.5}', '{"big": {"promt": 2.5}}', '{"big": {"prompt": -1}}'])
def test_a_mapping_that_makes_no_sense(good: dict[str, str], text: str) -> None:
    (problem,) = problems(good | {"TRIREME_MODEL_PRICES": text})
    assert problem.startswith("accounting.model_prices (TRIREME_MODEL_PRICES): ")


def test_there_may_be_more_models_each_with_a_directory_and_a_name(good: dict[str, str], model_dir: Path) -> None:
    more = f'[{{"name": "large", "dir": "{model_dir}", "max_model_len": 200}}]'
    assert [spec.name for spec in load(good | {"TRIREME_MORE_MODELS": more}).models.generating] == ["tiny", "large"]
    (problem,) = problems(good | {"TRIREME_MORE_MODELS": more.replace("large", "tiny")})
    assert problem.startswith("models: more than one thing is called 'tiny'")
    (problem,) = problems(good | {"TRIREME_MORE_MODELS": more.replace("large", "plan")})
    assert "Triton's ensemble" in problem
    (problem,) = problems(good | {"TRIREME_MORE_MODELS": '[{"name": "large", "dir": "/nowhere"}]'})
    assert problem == "models: /nowhere has no config.json"


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


def test_the_pepper_comes_from_a_file_or_a_variable_and_never_from_the_yaml(
    good: dict[str, str], tmp_path: Path
) -> None:
    pepper = "cd" * 32
    without_file = {name: value for name, value in good.items() if name != "TRIREME_PEPPER_FILE"}
    settings = load(without_file | {"TRIREME_PEPPER": pepper})
    assert read_pepper(settings.auth).hex() == pepper
    assert pepper not in repr(settings)
    assert read_pepper(load(good).auth).hex() == "ab" * 32
    (neither,) = problems(without_file)
    (both,) = problems(good | {"TRIREME_PEPPER": pepper})
    assert "TRIREME_PEPPER_FILE" in neither
    assert "set one" in both
    (written,) = problems(with_yaml(without_file, tmp_path, f"auth: {{pepper: {pepper}}}\n"))
    assert "stands in no file" in written
    for wrong in ("xyz" + pepper, pepper[:8]):
        (problem,) = problems(without_file | {"TRIREME_PEPPER": wrong})
        assert wrong not in problem


def test_contradictions_of_identity_are_found(good: dict[str, str]) -> None:
    environ = good | {
        "TRIREME_TRUSTED_PROXIES": "10.0.0.0/8, somewhere",
        "TRIREME_OIDC_ISSUER": "https://idp",
    }
    found = problems(environ)
    assert [problem.partition(":")[0] for problem in found] == [
        "http.trusted_proxies",
        "oidc.jwks, oidc.issuer and oidc.audience go together",
    ]


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
