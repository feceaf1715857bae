"""Where the models are and how the engine runs: a version's `engine.json`, overridden by `TRIREME_*`.

`args` in that file are what the variables override; `overrides` are a version's own and override the variables.

| variable | meaning |
|---|---|
| `TRIREME_MODEL_DIR` | directory of the generation model (config.json, tokenizer.json, *.safetensors) |
| `TRIREME_ENGINE` | `vllm` or `scripted` |
| `TRIREME_ENGINE_ARGS` | JSON object: vLLM AsyncEngineArgs that override engine.json's `args` |
| `TRIREME_PREEMPTION` | `true` or `false`: whether a waiting request may pause less urgent running ones |
| `TRIREME_TOOL_PARSER` | how the model writes tool calls; `auto`: as its template does (docs/tools.md) |
| `TRIREME_REASONING_PARSER` | what stands around its thoughts: `auto`, `none`, `think` or `mistral` |
| `TRIREME_EMBEDDING_MODEL_DIR`, `TRIREME_EMBEDDING_ARGS` | the same for the embedding model |
| `TRIREME_GRAMMAR_MAX_BYTES`, `TRIREME_GRAMMAR_COMPILE_S` | see the gateway's settings; the same there and here |
| `TRIREME_ADAPTERS_DIR` | directory below which LoRA adapters lie |
| `TRIREME_MAX_LORAS` | adapters in one batch of the engine; 0: none are served |
| `TRIREME_MAX_CPU_LORAS` | adapters in memory, at least as many; four times as many when not set |
| `TRIREME_MAX_LORA_RANK` | highest rank of an adapter; 1, 8, 16, 32, 64, 128, 256, 320 or 512 |
| `TRIREME_MAX_ADAPTER_BYTES` | largest file of an adapter's weights |
| `TRIREME_METRICS_INTERVAL_MS` | milliseconds between copies of vLLM's metrics into Triton's |
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from python_backends.adapters.inspection import Bounds
from python_backends.grammar.checker import GrammarLimits
from python_backends.llm.shelf import ShelfSettings
from python_backends.preprocessing.dialect import Parsers
from python_backends.preprocessing.reasoning import AUTO

_RANK = 16
ENGINES = ("vllm", "scripted")
_SWITCH = {"true": True, "false": False}


@dataclass(frozen=True)
class EngineSettings:
    """`arguments` always has `model`. `metrics_interval`: seconds. `preemption`: see llm/preemption.py.

    `grammars`: bounds of what answers must match, the same as the gateway's. `parsers`: see preprocessing/dialect.py.
    `shelf`: of adapters.
    """

    engine: str
    model_dir: Path
    arguments: Mapping[str, Any]
    max_model_len: int
    metrics_interval: float
    preemption: bool
    grammars: GrammarLimits
    parsers: Parsers
    shelf: ShelfSettings = field(default_factory=ShelfSettings)


def generation_settings(repository: Path, version: str, environment: Mapping[str, str] = os.environ) -> EngineSettings:
    """Settings of the `vllm` model, also for `preprocess` of the same version, which must know its context length.

    `repository`: the model repository. Raises ValueError for what cannot work.
    """
    file = repository / "vllm" / version / "engine.json"
    settings = _settings(file, environment, "TRIREME_MODEL_DIR", "TRIREME_ENGINE_ARGS")
    return _with_adapters(settings, json.loads(file.read_text("utf-8")).get("adapters", {}), environment)


def _with_adapters(
    settings: EngineSettings, declared: Mapping[str, Any], environment: Mapping[str, str]
) -> EngineSettings:
    """Variables win over engine.json's `adapters`. Without `max_loras` the engine is not made for adapters at all."""
    most, given = int(environment.get("TRIREME_MAX_LORAS") or declared.get("max_loras", 0)), settings.arguments
    if not most:
        return settings
    rank = int(environment.get("TRIREME_MAX_LORA_RANK") or declared.get("max_lora_rank", _RANK))
    in_memory = int(environment.get("TRIREME_MAX_CPU_LORAS") or declared.get("max_cpu_loras", 4 * most))
    size = int(environment.get("TRIREME_MAX_ADAPTER_BYTES") or declared.get("max_bytes", Bounds().max_bytes))
    if not 1 <= most <= in_memory:
        raise ValueError(f"TRIREME_MAX_CPU_LORAS is {in_memory}: at least TRIREME_MAX_LORAS, which is {most}")
    root = environment.get("TRIREME_ADAPTERS_DIR") or declared.get("dir")
    if not root:
        raise ValueError("no place for adapters: set TRIREME_ADAPTERS_DIR, or TRIREME_MAX_LORAS=0")
    arguments = {"enable_lora": True, "max_loras": most, "max_cpu_loras": in_memory, "max_lora_rank": rank, **given}
    shelf = ShelfSettings(Path(root), in_memory, Bounds(max_rank=rank, max_bytes=size))
    return replace(settings, arguments=arguments, shelf=shelf)


def embedding_settings(repository: Path, environment: Mapping[str, str] = os.environ) -> EngineSettings:
    """Settings of the `embed` model. Raises ValueError for what cannot work."""
    file = repository / "embed" / "1" / "engine.json"
    return _settings(file, environment, "TRIREME_EMBEDDING_MODEL_DIR", "TRIREME_EMBEDDING_ARGS")


def _settings(file: Path, environment: Mapping[str, str], directory: str, arguments: str) -> EngineSettings:
    declared = json.loads(file.read_text("utf-8"))
    engine = environment.get("TRIREME_ENGINE", declared.get("engine", "vllm"))
    if engine not in ENGINES:
        raise ValueError(f"TRIREME_ENGINE is {engine!r}: use one of {', '.join(ENGINES)}")
    overrides = json.loads(environment.get(arguments) or "{}")
    own = declared.get("overrides", {})
    merged = {**declared.get("args", {}), **overrides, **own}
    model = own.get("model") or environment.get(directory) or merged.get("model")
    if not model:
        raise ValueError(f"no model: set {directory}, or args.model in {file}")
    merged["model"] = str(model)
    return EngineSettings(
        engine=engine,
        model_dir=Path(model),
        arguments=merged,
        max_model_len=int(merged.get("max_model_len") or _context_length(Path(model))),
        metrics_interval=float(environment.get("TRIREME_METRICS_INTERVAL_MS", "2000")) / 1000,
        grammars=_grammar_limits(environment),
        preemption=_switch("TRIREME_PREEMPTION", environment, declared.get("preemption", True)),
        parsers=_parsers(environment, declared),
    )


def _grammar_limits(environment: Mapping[str, str]) -> GrammarLimits:
    usual = GrammarLimits()
    return GrammarLimits(
        max_bytes=int(environment.get("TRIREME_GRAMMAR_MAX_BYTES") or usual.max_bytes),
        cpu_s=float(environment.get("TRIREME_GRAMMAR_COMPILE_S") or usual.cpu_s),
    )


def _parsers(environment: Mapping[str, str], declared: Mapping[str, str]) -> Parsers:
    return Parsers(
        tool=environment.get("TRIREME_TOOL_PARSER") or declared.get("tool_parser", AUTO),
        reasoning=environment.get("TRIREME_REASONING_PARSER") or declared.get("reasoning_parser", AUTO),
    )


def _switch(variable: str, environment: Mapping[str, str], declared: bool) -> bool:
    text = environment.get(variable) or ("true" if declared else "false")
    if text not in _SWITCH:
        raise ValueError(f"{variable} is {text!r}: use one of {', '.join(_SWITCH)}")
    return _SWITCH[text]


def _context_length(model_dir: Path) -> int:
    config = json.loads((model_dir / "config.json").read_text("utf-8"))
    return int(config["max_position_embeddings"])


def repository_of(args: Mapping[str, str]) -> Path:
    """The model repository, from what Triton hands to `initialize` (the model's own directory)."""
    return Path(args["model_repository"]).parent
