"""Asks the worker process, remembers its verdicts, and replaces it when a constraint was too much for it."""

import hashlib
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

from python_backends.grammar.worker import LENGTH_BYTES, Task, Verdict, write_message
from python_backends.messages import Constraint
from python_backends.preprocessing.errors import RequestError

log = logging.getLogger(__name__)

# Wall clock, where the bound on CPU time does not help: a process that was stopped, a machine that swaps.
PATIENCE_S = 10.0
START_S = 60.0
_VERDICT = msgspec.json.Decoder(Verdict)


class CheckerUnavailableError(Exception):
    """No verdict, through no fault of the constraint."""


@dataclass(frozen=True)
class GrammarLimits:
    """`max_bytes`: of one schema, regex, grammar or list of choices. `cpu_s`: to compile it. `remembered`: verdicts."""

    max_bytes: int = 64 * 1024
    cpu_s: float = 1.0
    remembered: int = 1024


class GrammarChecker:
    """Thread-safe; one constraint at a time, the others wait. `model_dir`: whose tokenizer.json the engine uses."""

    def __init__(self, model_dir: Path, limits: GrammarLimits | None = None) -> None:
        self._limits = limits or GrammarLimits()
        self._worker = _Worker(model_dir, self._limits.cpu_s)
        self._verdicts: OrderedDict[bytes, Verdict] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def started(cls, model_dir: Path, limits: GrammarLimits) -> "GrammarChecker":
        """Its process starts now, not with the first constraint: about a second. Raises CheckerUnavailableError."""
        checker = cls(model_dir, limits)
        checker._worker.start()
        return checker

    def stop(self) -> None:
        with self._lock:
            self._worker.stop()

    def recall(self, wanted: Constraint, param: str) -> Constraint | None:
        """What `check` gives, if that is known. Raises RequestError."""
        task = msgspec.json.encode(Task(wanted, param))
        verdict = self._verdicts.get(_key(task))
        return None if verdict is None else _kept(verdict, param)

    def check(self, wanted: Constraint, param: str) -> Constraint:
        """`wanted` as the engine gets it. Raises RequestError that names `param`, or the place in a schema, and
        CheckerUnavailableError.
        """
        task = msgspec.json.encode(Task(wanted, param))
        size = _size(wanted)
        if size > self._limits.max_bytes:
            most = self._limits.max_bytes
            raise RequestError(
                f"{param}: {size} bytes are more than the {most} allowed", param=param, code="grammar_too_complex"
            )
        with self._lock:
            verdict = self._verdicts.get(_key(task)) or self._ask(task, param)
        return _kept(verdict, param)

    def _ask(self, task: bytes, param: str) -> Verdict:
        try:
            verdict = _VERDICT.decode(self._worker.ask(task))
        except _WorkerEndedError as error:
            log.warning("a constraint was too much for the compiler (%s)", error)
            verdict = _too_much(param, self._limits.cpu_s)
        self._verdicts[_key(task)] = verdict
        while len(self._verdicts) > self._limits.remembered:
            self._verdicts.popitem(last=False)
        return verdict


def _key(task: bytes) -> bytes:
    return hashlib.blake2b(task, digest_size=16).digest()


def _size(wanted: Constraint) -> int:
    texts = [wanted.json_schema, wanted.regex, wanted.grammar, *(wanted.choice or ())]
    return sum(len(text.encode()) for text in texts if text is not None)


def _kept(verdict: Verdict, param: str) -> Constraint:
    """Raises RequestError."""
    if verdict.constraint is None:
        raise RequestError(verdict.message, param=param, code=verdict.code)
    return verdict.constraint


def _too_much(param: str, cpu_s: float) -> Verdict:
    message = f"{param}: it takes more than {cpu_s:g} s, or too much memory, to compile: make it smaller"
    return Verdict(message=message, code="grammar_too_complex")


class _WorkerEndedError(Exception):
    """It ended while it had a task."""


@dataclass(frozen=True)
class _Process:
    """With its pipes."""

    process: "subprocess.Popen[bytes]"
    asked: IO[bytes]
    answers: IO[bytes]


class _Worker:
    """One process. Not thread-safe."""

    def __init__(self, model_dir: Path, cpu_s: float) -> None:
        # Within Triton's Python stub, `sys.executable` is no Python.
        python = Path(sys.prefix) / "bin" / "python3"
        self._command = [str(python), "-m", "python_backends.grammar.worker", str(model_dir), str(cpu_s)]
        self._running: _Process | None = None

    def start(self) -> _Process:
        """The process, which may have run before. Raises CheckerUnavailableError."""
        if self._running is not None and self._running.process.poll() is None:
            return self._running
        self.stop()
        try:
            process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            if process.stdin is None or process.stdout is None:
                raise CheckerUnavailableError("the grammar compiler has no pipes")
            self._running = _Process(process, process.stdin, process.stdout)
            self._read(self._running, START_S)
        except (OSError, _WorkerEndedError) as error:
            raise CheckerUnavailableError("the grammar compiler does not start") from error
        return self._running

    def stop(self) -> int:
        """Its exit status, 0 if there was none. Kills it, unless it has ended by itself."""
        running, self._running = self._running, None
        if running is None:
            return 0
        running.process.kill()
        with running.process as process:
            return process.wait()

    def ask(self, task: bytes) -> bytes:
        """Raises _WorkerEndedError, CheckerUnavailableError."""
        running = self.start()
        try:
            write_message(running.asked, task)
        except BrokenPipeError as error:
            self.stop()
            raise CheckerUnavailableError("the grammar compiler has ended") from error
        return self._read(running, PATIENCE_S)

    def _read(self, running: _Process, patience_s: float) -> bytes:
        until = time.monotonic() + patience_s
        handle = running.answers.fileno()
        length = int.from_bytes(self._exactly(handle, LENGTH_BYTES, until), "little")
        return self._exactly(handle, length, until)

    def _exactly(self, handle: int, count: int, until: float) -> bytes:
        """Straight from the pipe: a buffered reader would wait for longer than it may."""
        data = b""
        while len(data) < count:
            readable, _, _ = select.select([handle], [], [], max(0.0, until - time.monotonic()))
            if not readable:
                self.stop()
                raise CheckerUnavailableError("the grammar compiler does not answer")
            piece = os.read(handle, count - len(data))
            if not piece:
                raise _WorkerEndedError(self._ending())
            data += piece
        return data

    def _ending(self) -> str:
        running = self._running
        # Its pipe is closed, so that it ends by itself, and the reason is not lost.
        if running is not None:
            running.process.wait()
        status = self.stop()
        return signal.Signals(-status).name if status < 0 else f"status {status}"
