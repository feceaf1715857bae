"""One child process of the stack and everything below it.

Each child is the leader of a session of its own, so that a Ctrl-C at the terminal reaches the supervisor alone, and so
that what the child leaves behind can be found by session even after its parents are gone (the supervisor is made the
reaper of such orphans).
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

LOG = logging.getLogger(__name__)
PR_SET_CHILD_SUBREAPER = 36
KILL_WAIT_S = 2.0
# Triton's tables and its lines of level INFO, which bury the one that matters.
_NOISE = re.compile(r"\||\+--|I\d{4} |\s*$")
_SHARED_MEMORY = re.compile(r" (/dev/shm/\S+)$", re.MULTILINE)
_LAUNCHER = Path(__file__).with_name("launch.py")


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose own parent has died, instead of the machine's init."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


class ChildProcess:
    """A running program with its log file. Methods are safe to call after it has ended."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str], log: Path, cwd: Path) -> None:
        """Start it. Output is appended to `log`."""
        self._log_start = log.stat().st_size if log.exists() else 0
        self.log = log
        launcher = [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid())]
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                [*launcher, *argv],
                env=dict(environment),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._popen.pid
        self._shared_memory: set[Path] = set()

    def exit_code(self) -> int | None:
        """None while it runs; negative: ended by that signal."""
        return self._popen.poll()

    def tail(self, lines: int = 15) -> str:
        """The last lines that this very run wrote and that may tell why it ended."""
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            text = file.read().decode(errors="replace")
        return "\n".join([line for line in text.splitlines() if not _NOISE.match(line)][-lines:])

    def signal(self, number: signal.Signals) -> None:
        """Send to the program alone, not to what is below it."""
        if self.exit_code() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def stop(self, grace: float) -> None:
        """SIGTERM, wait up to `grace` seconds, then SIGKILL for whatever is left of the whole tree."""
        below = _descendants(self.pid)
        self.remember_shared_memory()
        self.signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout=grace)
        self.kill(below)

    def kill(self, known: Sequence[psutil.Process] = ()) -> None:
        """SIGKILL the program, its session, its descendants and of `known` what still lives; clean up after them."""
        self.remember_shared_memory()
        deadline = time.monotonic() + KILL_WAIT_S
        # More than once: one of them may have started another in the moment before its own end.
        while left := self._unfinished(known):
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            self.exit_code()
            self.reap_orphans()
            if time.monotonic() > deadline:
                LOG.error("these processes cannot be ended: %s", ", ".join(str(process.pid) for process in left))
                break
            time.sleep(0.01)
        for path in self._shared_memory:
            path.unlink(missing_ok=True)

    def _unfinished(self, known: Sequence[psutil.Process]) -> set[psutil.Process]:
        """Who runs, and who waits to be reaped by us: a zombie whose threads still end holds its ports and children."""
        tree = {*known, *_descendants(self.pid), *_processes(_session_pids(self.pid))}
        return {process for process in tree if _is_alive(process) or _parent_of(process) == os.getpid()}

    def remember_shared_memory(self) -> None:
        """Note what the whole tree maps of /dev/shm: what is killed leaves it behind, in memory, until a reboot."""
        for process in session_members(self.pid):
            with suppress(OSError):
                maps = Path(f"/proc/{process.pid}/maps").read_text()
                self._shared_memory.update(Path(path) for path in _SHARED_MEMORY.findall(maps))

    def reap_orphans(self) -> None:
        """Take the exit codes of dead descendants whose own parent died before them, so that no zombie stays."""
        for pid in _session_pids(self.pid):
            if pid != self.pid:
                with suppress(ChildProcessError):  # its parent still lives, and is the one to do it
                    os.waitpid(pid, os.WNOHANG)


def session_members(session: int) -> list[psutil.Process]:
    """Every living process of a session, its leader included."""
    return [process for process in _processes(_session_pids(session)) if _is_alive(process)]


def wait_until_gone(session: int, timeout: float) -> bool:
    """Whether the last process of a session ended within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while session_members(session):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _processes(pids: Iterable[int]) -> list[psutil.Process]:
    found = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(pid))
    return found


def _parent_of(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.NoSuchProcess:
        return None


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _session_pids(session: int) -> list[int]:
    """Zombies included."""
    return [pid for pid in psutil.pids() if _session_of(pid) == session]


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
