"""Servers that a benchmark starts beside the stack."""

import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from trireme.settings import ROOT

STOP_SECONDS = 10.0
LAST_WORDS = 2000


@contextmanager
def serving(
    command: Sequence[str], healthy: str, log: Path, *, environment: Mapping[str, str] | None = None, within: float
) -> Iterator[int]:
    """A process, by its id, from when `healthy` answers 200 on. `within`: seconds. Raises RuntimeError."""
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=ROOT)
        try:
            _wait(process, healthy, log, time.monotonic() + within)
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], healthy: str, log: Path, until: float) -> None:
    while process.poll() is None and time.monotonic() < until:
        try:
            with urllib.request.urlopen(healthy, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"nothing answers at {healthy}; its log ends with:\n{log.read_text()[-LAST_WORDS:]}")
