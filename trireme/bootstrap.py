"""Make `.venv` hold exactly what `requirements.lock` says; do nothing when it does already.

Runs on the user's own `python3` before anything is installed: standard library only, syntax that Python 3.6 can
parse, so that a wrong Python gets a sentence and not a traceback. A stamp inside `.venv`, written last, makes the
next run instant, and an interrupted one start over.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from trireme.machine import machine_checks, read_machine

ROOT = Path(__file__).resolve().parent.parent
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
HEARTBEAT_S = 15.0
INTERRUPT_S = 5.0
TAIL_LINES = 15
PACKAGE_LINES = ("Collecting ", "Processing ", "Requirement already satisfied")


class BootstrapError(Exception):
    """The installation cannot go on; the message is for the user."""


class Steps:
    """Progress as plain lines: each starts with the seconds since the beginning."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        elapsed = time.monotonic() - self._began
        sys.stderr.write(f"[{elapsed:4.0f} s] {text}\n")
        sys.stderr.flush()


class Venv:
    """The project's virtual environment on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.python = path / "bin" / "python"
        self.stamp = path / ".trireme-stamp"
        self.log = path / ".trireme-install.log"

    def is_current(self, fingerprint: str) -> bool:
        """Whether an earlier run finished with the same fingerprint and the interpreter is still there."""
        try:
            return os.access(str(self.python), os.X_OK) and self.stamp.read_text() == fingerprint
        except OSError:
            return False

    def is_usable(self) -> bool:
        """Whether its interpreter runs, is the one that runs us, and has pip."""
        code = "import sys, pip; print(sys.base_prefix, sys.version)"
        try:
            output = subprocess.check_output([str(self.python), "-c", code], stderr=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError):
            return False
        return output.decode().strip() == f"{sys.base_prefix} {sys.version}"

    def rebuild(self) -> None:
        """Make it anew. Raises: BootstrapError."""
        if self.path.exists():
            shutil.rmtree(str(self.path))
        result = subprocess.call([sys.executable, "-m", "venv", str(self.path)])
        if result != 0:
            raise BootstrapError(f"`{sys.executable} -m venv {self.path}` failed: see its message above.")


def main() -> int:
    """Exit code of `python3 -m trireme.bootstrap`: 0 when `.venv` is ready, 1 after one sentence on stderr."""
    problem = next((check.problem for check in machine_checks(read_machine(str(ROOT)), 0) if check.problem), "")
    if problem:
        sys.stderr.write(problem + "\n")
        return 1
    # `make` passes SIGTERM on: leave as for Ctrl-C, so that pip is ended too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        bootstrap(ROOT)
    except BootstrapError as error:
        sys.stderr.write(str(error) + "\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted: the next run goes on from here.\n")
        return 130
    return 0


def bootstrap(root: Path) -> None:
    """Bring `root/.venv` up to date. Raises: BootstrapError."""
    venv = Venv(root / ".venv")
    fingerprint = fingerprint_of(root)
    if venv.is_current(fingerprint):
        return
    steps = Steps()
    if not venv.is_usable():
        _require_room(root)
        steps.say("making .venv with Python {}.{}.{}".format(*sys.version_info[:3]))
        venv.rebuild()
    elif venv.stamp.exists():
        venv.stamp.unlink()
    lock = root / "requirements.lock"
    _install_torch(venv, pinned(lock, "torch"), steps)
    _pip(venv, ["-r", str(lock)], steps, f"installing {len(requirements(lock))} packages")
    _pip(venv, ["--no-build-isolation", "-e", str(root)], steps, "installing Trireme itself")
    venv.stamp.write_text(fingerprint)
    steps.say(".venv is ready")


def fingerprint_of(root: Path) -> str:
    """Changes whenever the environment has to be looked at again."""
    digest = hashlib.sha256()
    for name in ("requirements.lock", "pyproject.toml"):
        digest.update((root / name).read_bytes())
    digest.update(f"{sys.base_prefix} {sys.version}".encode())
    return digest.hexdigest()


def requirements(lock: Path) -> "list[str]":
    """Pinned requirements of the lock, comments left out."""
    lines = [line.split("#", 1)[0].strip() for line in lock.read_text().splitlines()]
    return [line for line in lines if line]


def pinned(lock: Path, name: str) -> str:
    """The requirement of one package. Raises: BootstrapError."""
    for requirement in requirements(lock):
        if requirement.startswith(name + "=="):
            return requirement
    raise BootstrapError(f"{lock} does not name {name}.")


def _require_room(root: Path) -> None:
    checks = {check.name: check for check in machine_checks(read_machine(str(root)))}
    if checks["disk"].problem:
        raise BootstrapError(checks["disk"].problem)


def _install_torch(venv: Venv, requirement: str, steps: Steps) -> None:
    """From the configured indexes; PyTorch's own index is asked for nothing but torch, and only when they lack it."""
    try:
        _pip(venv, [requirement], steps, f"installing {requirement} from the configured indexes")
    except BootstrapError:
        _pip(venv, ["--index-url", TORCH_INDEX, requirement], steps, f"installing {requirement} from {TORCH_INDEX}")


def _pip(venv: Venv, arguments: "list[str]", steps: Steps, title: str) -> None:
    """One `pip install --no-deps`, wheels only, with signs of life. Raises: BootstrapError with pip's last lines.

    --no-deps, because the resolver would refuse the set: see requirements.lock.
    """
    steps.say(title)
    command = [str(venv.python), "-m", "pip", "install", "--no-deps", "--no-input", "--disable-pip-version-check"]
    command += ["--progress-bar", "off", "--only-binary", ":all:"]
    with venv.log.open("w") as log:
        pip = subprocess.Popen(command + arguments, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait(pip, venv.log, steps)
        finally:
            _interrupt(pip)
    if pip.returncode != 0:
        tail = "\n".join(_lines(venv.log)[-TAIL_LINES:])
        raise BootstrapError(f"{tail}\n{title} failed: pip's last words are above, all of them in {venv.log}.")


def _wait(pip: "subprocess.Popen[bytes]", log: Path, steps: Steps) -> None:
    while True:
        try:
            pip.wait(timeout=HEARTBEAT_S)
        except subprocess.TimeoutExpired:
            steps.say("  " + progress(_lines(log)))
        else:
            return


def _interrupt(pip: "subprocess.Popen[bytes]") -> None:
    """End it if it still runs; by SIGINT, on which pip removes its temporary files."""
    if pip.poll() is not None:
        return
    pip.send_signal(signal.SIGINT)
    try:
        pip.wait(timeout=INTERRUPT_S)
    except subprocess.TimeoutExpired:
        pip.kill()
        pip.wait()


def progress(lines: "list[str]") -> str:
    """What pip is at, from the lines that it wrote so far."""
    found = [line for line in lines if line.startswith(PACKAGE_LINES)]
    if any(line.startswith("Installing collected packages") for line in lines):
        return f"unpacking {len(found)} packages"
    return f"{len(found)} packages found; {found[-1][:90]}" if found else "starting pip"


def _lines(path: Path) -> "list[str]":
    return path.read_text(errors="replace").splitlines()


if __name__ == "__main__":
    sys.exit(main())
