"""How tritonserver is started: its backend directory, its command line, its environment.

The server comes from the nvidia-pytriton wheel. Its Python backend wants the stub of the running interpreter's
version beside it, and that interpreter's shared library on the loader's path.
"""

from __future__ import annotations

import ctypes
import filecmp
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from trireme.errors import TriremeError
from trireme.machine import check_libpython, find_libpython, libpython_places
from trireme.models import package_dir
from trireme.repository import DEFAULT, Repository
from trireme.settings import LOOPBACK, Settings

# Triton waits so long for requests in flight and for models to unload before it gives up and exits.
EXIT_TIMEOUT_S = 2
# The path of a Unix socket has at most 107 bytes; vLLM's end in a name of 36.
MAX_TEMPORARY_PATH = 60
STUB = "triton_python_backend_stub"


def assemble_backends(state_dir: Path) -> Path:
    """The directory for `--backend-directory`, brought up to date. Raises: TriremeError."""
    server = package_dir("pytriton") / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / STUB
    if not stub.is_file():
        raise TriremeError(f"The installed tritonserver has no Python stub for Python {version}.")
    sources = [path for path in (server / "backends" / "python").iterdir() if path.is_file()]
    backends = state_dir / "triton" / "backends"
    target = backends / "python"
    target.mkdir(parents=True, exist_ok=True)
    for source in [*sources, stub]:
        _place(source, target / source.name)
    return backends


def temporary_directory(state_dir: Path) -> Path | None:
    """An empty directory for what tritonserver and vLLM leave behind when they are killed.

    None when its path would be too long for the sockets in it; the system's own is used then.
    """
    directory = state_dir / "tmp"
    if len(str(directory)) > MAX_TEMPORARY_PATH:
        return None
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def _place(source: Path, target: Path) -> None:
    """Copy when it differs, executable, in one step: a server that runs from here keeps its own file."""
    if target.is_file() and filecmp.cmp(source, target):
        return
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copy2(source, partial)
    partial.chmod(0o755)
    partial.replace(target)


def triton_command(settings: Settings, backends: Path, repository: Repository) -> list[str]:
    """Every address is loopback; a model that fails to load ends the server, so that the failure is seen."""
    server = package_dir("pytriton") / "tritonserver" / "bin" / "tritonserver"
    ports = settings.ports
    flags = {
        "model-repository": repository.path,
        "backend-directory": backends,
        "model-control-mode": "explicit",
        # Ready, also while a version is loaded beside others, or when that failed.
        "strict-readiness": "false",
        "exit-on-error": "true",
        "exit-timeout-secs": EXIT_TIMEOUT_S,
        "log-verbose": 1 if settings.log_level == "debug" else 0,
        "http-address": LOOPBACK,
        "http-port": ports.triton_http,
        "grpc-address": LOOPBACK,
        "grpc-port": ports.triton_grpc,
        "metrics-address": LOOPBACK,
        "metrics-port": ports.triton_metrics,
    }
    models = [f"--load-model={name}" for name in settings.triton_models]
    return [str(server), *(f"--{name}={value}" for name, value in flags.items()), *models]


def added_versions(settings: Settings, repository: Repository) -> list[str]:
    """Flags for the versions that there are by now, where models are named: `*` means them too."""
    if DEFAULT not in settings.triton_models:
        return []
    there = {repository.ensemble(version) for version in repository.versions if version not in repository.unproven()}
    return [f"--load-model={name}" for name in sorted(there - {DEFAULT})]


def triton_environment(settings: Settings) -> dict[str, str]:
    """What tritonserver and the model processes below it see. Raises: TriremeError without a shared libpython."""
    libpython = find_libpython(*libpython_places())
    problem = check_libpython(libpython, (sys.version_info.major, sys.version_info.minor)).problem
    if problem:
        raise TriremeError(problem)
    bundled = package_dir("pytriton").parent / "nvidia_pytriton.libs"
    libraries = [str(Path(libpython).parent), str(bundled), *_numa(bundled, settings.state_dir / "triton" / "lib")]
    return {
        **inherited_environment(),
        "LD_LIBRARY_PATH": ":".join(libraries),
        "TRIREME_MODEL_DIR": str(settings.model.path),
        "TRIREME_EMBEDDING_MODEL_DIR": str(settings.embedding_model.path),
        "TRIREME_TOOL_PARSER": settings.tool_parser,
        "TRIREME_REASONING_PARSER": settings.reasoning_parser,
        "TRIREME_ENGINE": settings.engine,
        "TRIREME_ENGINE_ARGS": json.dumps(dict(settings.engine_args)),
        "TRIREME_EMBEDDING_ARGS": json.dumps(dict(settings.embedding_args)),
        "TRIREME_LOG_LEVEL": settings.log_level,
        "TRIREME_MAX_LORAS": str(settings.adapters.max_loras),
        "TRIREME_MAX_CPU_LORAS": str(settings.adapters.max_cpu_loras),
        **adapter_environment(settings),
        **_engine_environment(settings),
    }


def adapter_environment(settings: Settings) -> dict[str, str]:
    """What gateway and engines must agree on. Makes the directory."""
    adapters = settings.adapters
    adapters.dir.mkdir(parents=True, exist_ok=True)
    return {
        "TRIREME_ADAPTERS_DIR": str(adapters.dir),
        "TRIREME_MAX_LORA_RANK": str(adapters.max_rank),
        "TRIREME_MAX_ADAPTER_BYTES": str(adapters.max_bytes),
    }


def _numa(bundled: Path, directory: Path) -> list[str]:
    """A directory with `libnuma.so.1`, where the system has none: vLLM's CPU kernels are linked against it.

    The library itself comes with tritonserver, under a name that only tritonserver looks for.
    """
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError:
        directory.mkdir(parents=True, exist_ok=True)
        for library in bundled.glob("libnuma-*.so*"):
            _place(library, directory / "libnuma.so.1")
        return [str(directory)]
    return []


def _engine_environment(settings: Settings) -> Mapping[str, str]:
    """No calls to the outside, and nothing written beside the state directory."""
    caches = settings.state_dir / "cache"
    return {
        "VLLM_CPU_KVCACHE_SPACE": str(settings.kv_cache_gib),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_HOST_IP": LOOPBACK,
        "VLLM_CACHE_ROOT": str(caches / "vllm"),
        "VLLM_CONFIG_ROOT": str(caches / "vllm-config"),
        "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
        "HF_HOME": str(caches / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
    }


def inherited_environment() -> dict[str, str]:
    """Ours, with the virtual environment's `python3` first on PATH, and without what would change an interpreter."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    path = os.environ.get("PATH", os.defpath)
    return {
        **environment,
        "PATH": os.pathsep.join([str(Path(sys.prefix) / "bin"), path]),
        "LC_ALL": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
    }
