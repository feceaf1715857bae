"""`trireme doctor`: what can be checked without starting anything. Findings only; the command prints them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

import psutil

from trireme.bootstrap import requirements
from trireme.claims import PORT_PARTS, can_listen, state_lock
from trireme.errors import AlreadyRunning, TriremeError
from trireme.machine import Check, machine_checks, read_machine
from trireme.settings import LOOPBACK, ROOT, Model, Settings

NEEDED_MEMORY_GB = 6.0
# Each model process maps a few MB of it to exchange tensors with Triton.
NEEDED_SHM_MB = 64


def examine(settings: Settings) -> list[Check]:
    """All findings, in the order in which they matter."""
    return [
        *machine_checks(read_machine(str(ROOT)), needed_gb=1.0),
        check_memory(psutil.virtual_memory().available / 1e9),
        check_shared_memory(shutil.disk_usage("/dev/shm").free / 1e6),  # noqa: S108 - it is what Triton uses
        check_packages(requirements(ROOT / "requirements.lock"), installed_versions()),
        *(check_model(model) for model in (settings.model, settings.embedding_model)),
        *check_ports(settings),
    ]


def check_memory(available_gb: float) -> Check:
    """Both engines with float32 weights, their KV cache and the processes around them."""
    found = f"{available_gb:.1f} GB free"
    if available_gb >= NEEDED_MEMORY_GB:
        return Check("memory", found, "")
    problem = f"Both engines together need about {NEEDED_MEMORY_GB:.0f} GB of memory: end other programs first."
    return Check("memory", found, problem)


def check_shared_memory(free_mb: float) -> Check:
    """Triton and its model processes exchange tensors through /dev/shm."""
    found = f"{free_mb:.0f} MB free"
    if free_mb >= NEEDED_SHM_MB:
        return Check("/dev/shm", found, "")  # noqa: S108
    problem = f"Triton needs {NEEDED_SHM_MB} MB in /dev/shm: make it larger (in a container: --shm-size=1g)."
    return Check("/dev/shm", found, problem)  # noqa: S108


def check_packages(pinned: Iterable[str], installed: Mapping[str, str]) -> Check:
    """Installed versions are those of the lock."""
    wanted = dict(requirement.split("==", 1) for requirement in pinned)
    wrong = [
        f"{name} {installed.get(_normal(name), 'missing')} (lock: {version})"
        for name, version in wanted.items()
        if installed.get(_normal(name)) != version
    ]
    if not wrong:
        return Check("packages", f"{len(wanted)} as in the lock", "")
    named = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")  # noqa: PLR2004
    return Check("packages", f"{len(wrong)} differ", f"Not as requirements.lock says: {named}. Run `make setup`.")


def installed_versions() -> Mapping[str, str]:
    """Normalized name → version of everything in this environment."""
    return {_normal(package.name): package.version for package in metadata.distributions()}


def check_model(model: Model) -> Check:
    """The files that the tokenizer and the engine read."""
    name = f"model {model.name}"
    if model.prepared and not model.path.is_dir():
        return Check(name, "not prepared yet: the first start does it", "")
    missing = list(_missing_files(model.path))
    if missing:
        remedy = "Delete the directory and run `trireme prepare`." if model.prepared else "Give a complete directory."
        return Check(name, "incomplete", f"{model.path} holds no {', no '.join(missing)}. {remedy}")
    return Check(name, str(model.path), "")


def check_ports(settings: Settings) -> list[Check]:
    """Free, or taken by the very stack that these settings describe."""
    try:
        with state_lock(settings.state_dir):
            return [_check_port(settings, name) for name in PORT_PARTS]
    except AlreadyRunning:
        return [Check("ports", "the stack is running", "")]


def _check_port(settings: Settings, name: str) -> Check:
    part, variable = PORT_PARTS[name]
    host = settings.host if part == "gateway" else LOOPBACK
    port = getattr(settings.ports, name)
    title = f"port {name}"
    try:
        free = can_listen(host, port)
    except TriremeError as error:
        return Check(title, f"{host}:{port}", str(error))
    if free:
        return Check(title, f"{host}:{port} is free", "")
    return Check(title, f"{host}:{port} is taken", f"Stop what listens there, or choose another port with {variable}.")


def _missing_files(path: Path) -> Iterator[str]:
    for pattern in ("config.json", "tokenizer.json", "*.safetensors"):
        if not any(path.glob(pattern)):
            yield pattern


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
