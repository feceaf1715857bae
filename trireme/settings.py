"""Settings of the embedded stack: the only reader of its environment and YAML files.

Three layers, later ones win: `deploy/embedded.yaml`, the file given with `--config`, `TRIREME_*` variables. Nothing
is used before everything was checked; all problems are reported together.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from python_backends.preprocessing.reasoning import TAGS
from python_backends.preprocessing.tool_format import FORMATS
from trireme.errors import SettingsError

ROOT = Path(__file__).resolve().parent.parent
DEFAULTS_FILE = ROOT / "deploy" / "embedded.yaml"
PREPARED_MODELS = ("smollm2-135m-instruct", "all-minilm-l6-v2")
ENGINES = ("vllm", "scripted")
TOOL_PARSERS = ("auto", *FORMATS)
REASONING_PARSERS = ("auto", "none", *TAGS)
LOG_LEVELS = ("debug", "info", "warning", "error")
LOOPBACK = "127.0.0.1"
MAX_PORT = 65535

# Variable → where it goes in the settings, and how its text is read.
ENVIRONMENT: Mapping[str, tuple[tuple[str, ...], Callable[[str], Any]]] = {
    "TRIREME_STATE_DIR": (("state_dir",), str),
    "TRIREME_MODELS_DIR": (("models_dir",), str),
    "TRIREME_LOG_LEVEL": (("log_level",), str),
    "TRIREME_HOST": (("host",), str),
    "TRIREME_PORT": (("ports", "gateway"), int),
    "TRIREME_TRITON_HTTP_PORT": (("ports", "triton_http"), int),
    "TRIREME_TRITON_GRPC_PORT": (("ports", "triton_grpc"), int),
    "TRIREME_TRITON_METRICS_PORT": (("ports", "triton_metrics"), int),
    "TRIREME_VALKEY_PORT": (("ports", "valkey"), int),
    "TRIREME_CONTROL_PORT": (("ports", "control"), int),
    "TRIREME_MODEL": (("model",), str),
    "TRIREME_EMBEDDING_MODEL": (("embedding_model",), str),
    "TRIREME_TOOL_PARSER": (("tool_parser",), str),
    "TRIREME_REASONING_PARSER": (("reasoning_parser",), str),
    "TRIREME_ENGINE": (("engine",), str),
    "TRIREME_ENGINE_ARGS": (("engine_args",), json.loads),
    "TRIREME_EMBEDDING_ARGS": (("embedding_args",), json.loads),
    "TRIREME_KV_CACHE_GIB": (("kv_cache_gib",), int),
    "TRIREME_ADAPTERS_DIR": (("adapters", "dir"), str),
    "TRIREME_MAX_LORAS": (("adapters", "max_loras"), int),
    "TRIREME_MAX_CPU_LORAS": (("adapters", "max_cpu_loras"), int),
    "TRIREME_MAX_LORA_RANK": (("adapters", "max_rank"), int),
    "TRIREME_MAX_ADAPTER_BYTES": (("adapters", "max_bytes"), int),
    "TRIREME_MODEL_REPOSITORY": (("model_repository",), str),
    "TRIREME_TRITON_MODELS": (("triton_models",), lambda text: [name.strip() for name in text.split(",")]),
}


@dataclass(frozen=True)
class Ports:
    """TCP ports of the stack."""

    gateway: int = 8080
    triton_http: int = 8000
    triton_grpc: int = 8001
    triton_metrics: int = 8002
    valkey: int = 6379
    control: int = 8090


@dataclass(frozen=True)
class Adapters:
    """LoRA adapters: where they lie, how many run at the same time and are in memory, how large they may be."""

    dir: Path
    max_loras: int
    max_cpu_loras: int
    max_rank: int
    max_bytes: int


@dataclass(frozen=True)
class Model:
    """A Hugging Face model directory and the name that clients call it by; `prepared` ones Trireme makes itself."""

    name: str
    path: Path
    prepared: bool


@dataclass(frozen=True)
class Settings:
    """The whole stack. Paths are absolute; `kv_cache_gib` is in GiB."""

    state_dir: Path
    models_dir: Path
    log_level: str
    host: str
    ports: Ports
    model: Model
    embedding_model: Model
    tool_parser: str
    reasoning_parser: str
    engine: str
    engine_args: Mapping[str, Any]
    embedding_args: Mapping[str, Any]
    kv_cache_gib: int
    adapters: Adapters
    model_repository: Path
    triton_models: tuple[str, ...]
    gateway: Mapping[str, Any]

    def loads(self, model: str) -> bool:
        """Whether Triton is told to load this model."""
        return model in self.triton_models or "*" in self.triton_models

    @property
    def max_model_len(self) -> int:
        """Tokens of prompt and answer together: the engine's argument, else what the model was trained for."""
        given = self.engine_args.get("max_model_len")
        if isinstance(given, int):
            return given
        config = json.loads((self.model.path / "config.json").read_text())
        return int(config["max_position_embeddings"])


def load_settings(config: Path | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Raises: SettingsError with every problem found."""
    problems: list[str] = []
    values = _read_yaml(DEFAULTS_FILE, problems)
    if config is not None:
        _merge(values, _read_yaml(config, problems))
    _merge(values, _read_environment(environ, problems))
    if not problems:
        problems = check_values(values)
    if problems:
        raise SettingsError(problems)
    return _build(values)


def _read_yaml(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        problems.append(f"{path} cannot be read: {error.strerror}.")
        return {}
    except yaml.YAMLError as error:
        problems.append(f"{path} is not valid YAML: {' '.join(str(error).split())}.")
        return {}
    if values is None:
        return {}
    if not isinstance(values, dict):
        problems.append(f"{path} must hold settings as `name: value` lines.")
        return {}
    return values


def _read_environment(environ: Mapping[str, str], problems: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for variable, (place, parse) in ENVIRONMENT.items():
        text = environ.get(variable)
        if text is None or text == "":
            continue
        try:
            value = parse(text)
        except ValueError:
            problems.append(f"{variable}={text!r} cannot be read as {_KINDS[parse]}.")
            continue
        for key in reversed(place):
            value = {key: value}
        _merge(values, value)
    return values


_KINDS: Mapping[Callable[[str], Any], str] = {int: "a whole number", json.loads: "JSON"}


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> None:
    """Lay `over` upon `base`: mappings key by key, everything else whole."""
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value


_WORDS: Mapping[str, tuple[str, ...]] = {
    "engine": ENGINES,
    "log_level": LOG_LEVELS,
    "tool_parser": TOOL_PARSERS,
    "reasoning_parser": REASONING_PARSERS,
}


def check_values(values: Mapping[str, Any]) -> list[str]:
    """A sentence for each thing that is wrong with merged values."""
    known = {field.name for field in fields(Settings)}
    problems = [f"{name}: there is no such setting." for name in values if name not in known]
    problems += [f"{name}: is missing." for name in sorted(known - set(values))]
    if problems:
        return problems
    for name, allowed in _WORDS.items():
        if values[name] not in allowed:
            problems.append(f"{name}: {values[name]!r} is none of {', '.join(allowed)}.")
    for name in ("state_dir", "host", "model_repository"):
        if not isinstance(values[name], str) or not values[name]:
            problems.append(f"{name}: {values[name]!r} is not a text.")
    for name in ("engine_args", "embedding_args", "gateway"):
        if not isinstance(values[name], dict):
            problems.append(f"{name}: {values[name]!r} is not a mapping.")
    return [
        *problems,
        *_check_ports(values["ports"]),
        *_check_model("model", values["model"]),
        *_check_model("embedding_model", values["embedding_model"]),
        *_check_engine(values),
        *_check_adapters(values["adapters"]),
    ]


def _check_ports(ports: object) -> list[str]:
    if not isinstance(ports, dict):
        return [f"ports: {ports!r} is not a mapping."]
    names = [field.name for field in fields(Ports)]
    problems = [f"ports.{name}: there is no such port." for name in ports if name not in names]
    for name in names:
        port = ports.get(name)
        if not _is_int(port) or not 1 <= port <= MAX_PORT:
            problems.append(f"ports.{name}: {port!r} is not a TCP port (1 to {MAX_PORT}).")
    if not problems:
        taken: dict[int, str] = {}
        for name in names:
            other = taken.setdefault(ports[name], name)
            if other != name:
                problems.append(f"ports.{name}: {ports[name]} is the port of {other} already.")
    return problems


def _check_model(setting: str, model: object) -> list[str]:
    if not isinstance(model, str) or not model:
        return [f"{setting}: {model!r} is neither a model's name nor a path."]
    if "/" not in model:
        if model in PREPARED_MODELS:
            return []
        names = " nor ".join(PREPARED_MODELS)
        return [f"{setting}: {model!r} is neither {names} nor a path (which has a slash in it)."]
    path = _absolute(model)
    missing = missing_files(path)
    return [f"{setting}: {path} holds no {', no '.join(missing)}."] if missing else []


def missing_files(path: Path) -> list[str]:
    """What a model directory lacks."""
    missing = [name for name in ("config.json", "tokenizer.json") if not (path / name).is_file()]
    return missing if any(path.glob("*.safetensors")) else [*missing, "*.safetensors"]


def _check_engine(values: Mapping[str, Any]) -> list[str]:
    problems = []
    gib = values["kv_cache_gib"]
    if not _is_int(gib) or gib < 1:
        problems.append(f"kv_cache_gib: {gib!r} is not a whole number of GiB (at least 1).")
    models = values["triton_models"]
    if not isinstance(models, list) or not models or not all(isinstance(name, str) and name for name in models):
        problems.append(f"triton_models: {models!r} is not a list of model names.")
    if values["models_dir"] is not None and not isinstance(values["models_dir"], str):
        problems.append(f"models_dir: {values['models_dir']!r} is not a path.")
    arguments = values["engine_args"]
    length = arguments.get("max_model_len") if isinstance(arguments, dict) else None
    if length is not None and (not _is_int(length) or length < 1):
        problems.append(f"engine_args.max_model_len: {length!r} is not a positive number of tokens.")
    return problems


def _check_adapters(adapters: object) -> list[str]:
    if not isinstance(adapters, dict):
        return [f"adapters: {adapters!r} is not a mapping."]
    names = [field.name for field in fields(Adapters)]
    problems = [f"adapters.{name}: there is no such setting." for name in adapters if name not in names]
    directory = adapters.get("dir")
    if directory is not None and not (isinstance(directory, str) and directory):
        problems.append(f"adapters.dir: {directory!r} is not a path.")
    for name in names[1:]:
        number = adapters.get(name)
        if not _is_int(number) or number < (name != "max_loras"):
            problems.append(f"adapters.{name}: {number!r} is not a whole number.")
    if not problems and adapters["max_cpu_loras"] < adapters["max_loras"]:
        problems.append("adapters.max_cpu_loras: is less than max_loras, which must all be in memory.")
    return problems


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _absolute(path: str) -> Path:
    return (ROOT / Path(path).expanduser()).resolve()


def _build(values: Mapping[str, Any]) -> Settings:
    state_dir = _absolute(values["state_dir"])
    models_dir = _absolute(values["models_dir"]) if values["models_dir"] else state_dir / "models"
    return Settings(
        state_dir=state_dir,
        models_dir=models_dir,
        log_level=values["log_level"],
        host=values["host"],
        ports=Ports(**values["ports"]),
        model=_model(values["model"], models_dir),
        embedding_model=_model(values["embedding_model"], models_dir),
        tool_parser=values["tool_parser"],
        reasoning_parser=values["reasoning_parser"],
        engine=values["engine"],
        engine_args=values["engine_args"],
        embedding_args=values["embedding_args"],
        kv_cache_gib=values["kv_cache_gib"],
        adapters=_adapters(values["adapters"], state_dir),
        model_repository=_absolute(values["model_repository"]),
        triton_models=tuple(values["triton_models"]),
        gateway=values["gateway"],
    )


def _adapters(values: Mapping[str, Any], state_dir: Path) -> Adapters:
    return Adapters(**{**values, "dir": _absolute(values["dir"]) if values["dir"] else state_dir / "adapters"})


def _model(value: str, models_dir: Path) -> Model:
    if "/" in value:
        path = _absolute(value)
        return Model(name=path.name, path=path, prepared=False)
    return Model(name=value, path=models_dir / value, prepared=True)
