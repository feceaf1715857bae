"""Three layers of settings, and every problem in one report."""

import json
from pathlib import Path

import pytest

from trireme.errors import SettingsError
from trireme.settings import ROOT, Settings, load_settings


def refused(config: Path | None = None, **environ: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load_settings(config, environ)
    return caught.value.problems


@pytest.fixture
def model_directory(tmp_path: Path) -> Path:
    directory = tmp_path / "my-model"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"max_position_embeddings": 2048}))
    (directory / "tokenizer.json").write_text("{}")
    (directory / "model.safetensors").touch()
    return directory


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_the_shipped_defaults_are_valid_and_loopback() -> None:
    settings = load_settings(environ={})
    assert (settings.host, settings.ports.gateway, settings.ports.triton_http) == ("127.0.0.1", 8080, 8000)
    assert settings.state_dir == ROOT / ".trireme"
    assert settings.model.path == ROOT / ".trireme/models/smollm2-135m-instruct"
    assert settings.engine_args["dtype"] == "float32"
    assert settings.max_model_len == 4096


def test_a_file_overrides_the_defaults_and_the_environment_overrides_the_file(tmp_path: Path) -> None:
    config = write(tmp_path / "c.yaml", "log_level: debug\nports: {gateway: 9000, valkey: 9001}\n")
    settings = load_settings(config, {"TRIREME_PORT": "9100"})
    assert settings.log_level == "debug"
    assert (settings.ports.gateway, settings.ports.valkey, settings.ports.triton_grpc) == (9100, 9001, 8001)


def test_engine_arguments_are_added_key_by_key() -> None:
    settings = load_settings(environ={"TRIREME_ENGINE_ARGS": '{"max_model_len": 512, "seed": 1}'})
    assert settings.engine_args == {
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 512,
        "max_num_seqs": 32,
        "seed": 1,
    }
    assert settings.max_model_len == 512


def test_the_gateways_settings_are_passed_on_untouched(tmp_path: Path) -> None:
    config = write(tmp_path / "c.yaml", "gateway: {admission: {limit: 3}}\n")
    assert load_settings(config, {}).gateway == {"admission": {"limit": 3}}


def test_all_problems_are_reported_together(tmp_path: Path) -> None:
    config = write(
        tmp_path / "c.yaml",
        "engine: tensorrt\nlog_level: loud\nkv_cache_gib: 0\nports: {gateway: 70000}\nmodel: gpt-5\n"
        "triton_models: []\nengine_args: {max_model_len: -1}\n",
    )
    problems = refused(config)
    for word in ("engine:", "log_level:", "kv_cache_gib:", "ports.gateway:", "model:", "triton_models:"):
        assert any(problem.startswith(word) for problem in problems), (word, problems)
    assert any("engine_args.max_model_len" in problem for problem in problems)


def test_unreadable_variables_are_named_with_what_was_expected() -> None:
    problems = refused(TRIREME_PORT="http", TRIREME_ENGINE_ARGS="{dtype}", TRIREME_KV_CACHE_GIB="1.5")
    assert problems == [
        "TRIREME_PORT='http' cannot be read as a whole number.",
        "TRIREME_ENGINE_ARGS='{dtype}' cannot be read as JSON.",
        "TRIREME_KV_CACHE_GIB='1.5' cannot be read as a whole number.",
    ]


def test_a_setting_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    assert refused(write(tmp_path / "c.yaml", "modell: x\n")) == ["modell: there is no such setting."]
    assert refused(write(tmp_path / "c.yaml", "ports: {grpc: 1}\n")) == ["ports.grpc: there is no such port."]


def test_the_same_port_twice_is_refused() -> None:
    assert refused(TRIREME_PORT="8000") == ["ports.triton_http: 8000 is the port of gateway already."]


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "just words"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    [problem] = refused(write(tmp_path / "c.yaml", text))
    assert str(tmp_path / "c.yaml") in problem


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.yaml") == [f"{tmp_path}/none.yaml cannot be read: No such file or directory."]


def test_a_path_makes_a_model_of_the_users_own(model_directory: Path) -> None:
    settings = load_settings(environ={"TRIREME_MODEL": str(model_directory)})
    assert (settings.model.name, settings.model.path) == ("my-model", model_directory)
    assert not settings.model.prepared


def test_without_an_engine_argument_the_model_says_how_long_a_context_is(model_directory: Path) -> None:
    environ = {"TRIREME_MODEL": str(model_directory), "TRIREME_ENGINE_ARGS": '{"max_model_len": null}'}
    assert load_settings(environ=environ).max_model_len == 2048


def test_pickled_weights_are_not_accepted(model_directory: Path) -> None:
    (model_directory / "model.safetensors").rename(model_directory / "pytorch_model.bin")
    assert refused(TRIREME_MODEL=str(model_directory)) == [f"model: {model_directory} holds no *.safetensors."]


def test_which_models_triton_loads() -> None:
    some: Settings = load_settings(environ={"TRIREME_TRITON_MODELS": "chat, vllm"})
    assert some.triton_models == ("chat", "vllm")
    assert some.loads("chat")
    assert not some.loads("embed")
    assert load_settings(environ={}).loads("embed")
