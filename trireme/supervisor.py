"""Starts the parts of the stack in order, keeps them running, stops them in reverse order.

One thread does all of it: it asks each child in turn, five times a second. Liveness probes, which may take long,
run beside it in threads that only leave a result.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trireme.cores import keep_off_the_engine
from trireme.errors import Interrupted, StartError
from trireme.process import ChildProcess
from trireme.restart import Backoff, Liveness, RestartState

LOG = logging.getLogger(__name__)
TICK_S = 0.2
REAP_EVERY_S = 5.0
MIN_GRACE_S = 0.5


@dataclass(frozen=True)
class ChildSpec:
    """How to start one part of the stack, and how to tell how it is."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    cwd: Path
    is_ready: Callable[[], bool]
    start_timeout: float  # s; a model server that loads its models needs long
    stop_by: float  # s after the beginning of the shutdown; later than that it is killed
    late_argv: Callable[[], Sequence[str]] = tuple  # comes after `argv`; asked at each start, restarts too
    when_ready: Callable[[], None] = lambda: None  # called once, after the first start and before the next part's
    is_alive: Callable[[], bool] | None = None  # asked every `Supervision.probe_every` seconds while it is up


@dataclass(frozen=True)
class Supervision:
    """The supervisor's own settings, in seconds."""

    backoff: Backoff = field(default_factory=Backoff)
    probe_every: float = 3.0
    probes_allowed: int = 2


class Probe(threading.Thread):
    """One liveness question under way; `works` is None until the answer is there."""

    def __init__(self, spec: ChildSpec, question: Callable[[], bool]) -> None:
        super().__init__(name=f"probe-{spec.name}", daemon=True)
        self._question = question
        self.works: bool | None = None

    def run(self) -> None:
        self.works = self._question()


class Child:
    """A part of the stack at run time."""

    def __init__(self, spec: ChildSpec, supervision: Supervision) -> None:
        self.spec = spec
        self.process: ChildProcess | None = None
        self.was_up = False  # at least once
        self.ready = False  # it answered since its last start
        self.restart = RestartState()
        self.liveness = Liveness(allowed=supervision.probes_allowed)
        self.probe: Probe | None = None
        self.next_probe = 0.0

    @property
    def pid(self) -> int | None:
        """None while it waits for its restart."""
        return self.process.pid if self.process else None

    def launch(self, now: float) -> ChildProcess:
        """Start the program; nothing is known of the new run yet."""
        spec = self.spec
        self.process = ChildProcess((*spec.argv, *spec.late_argv()), spec.environment, spec.log, spec.cwd)
        self.restart = self.restart.started(now)
        self.liveness = Liveness(allowed=self.liveness.allowed)
        self.ready, self.probe = False, None
        return self.process


class Supervisor:
    """Owns the children. `say` gets one line for each thing that a user wants to know."""

    def __init__(
        self,
        specs: Sequence[ChildSpec],
        say: Callable[[str], None] = LOG.info,
        supervision: Supervision | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._supervision = supervision or Supervision()
        self.children = {spec.name: Child(spec, self._supervision) for spec in specs}
        self._say = say
        self._clock = clock
        self._next_reap = 0.0

    def start(self, stop: threading.Event) -> None:
        """Start all in order, each when the one before is ready. Raises: StartError, Interrupted."""
        for child in self.children.values():
            began = self._clock()
            self._say(f"starting {child.spec.name}")
            process = child.launch(began)
            while not self._came_up(child, process):
                if stop.wait(TICK_S / 2):
                    raise Interrupted
                self.tick()
            child.spec.when_ready()
            child.was_up = True
            self._say(f"{child.spec.name} is ready ({self._clock() - began:.1f} s)")

    def watch(self, stop: threading.Event) -> None:
        """Keep all running until `stop` is set."""
        while not stop.wait(TICK_S):
            self.tick()

    def tick(self) -> None:
        """Look once at every child that has been up before; `start` looks at the others."""
        for child in self.children.values():
            if child.was_up:
                self._look_after(child)
        if self._clock() >= self._next_reap:
            self._next_reap = self._clock() + REAP_EVERY_S
            for child in self.children.values():
                if child.process:
                    child.process.reap_orphans()

    def all_ready(self) -> bool:
        """Whether every child runs and has answered since its last start."""
        return all(child.ready for child in self.children.values())

    def shutdown(self) -> None:
        """Stop all in reverse order; nothing of them is left when this returns."""
        began = self._clock()
        for child in reversed(self.children.values()):
            if child.process:
                grace = max(MIN_GRACE_S, child.spec.stop_by - (self._clock() - began))
                child.process.stop(grace)
                child.process, child.ready = None, False
                self._say(f"{child.spec.name} has stopped")

    def kill(self, name: str) -> None:
        """SIGKILL one child's program, as a crash would; it will be restarted."""
        child = self.children[name]
        if child.process:
            child.process.signal(signal.SIGKILL)

    def _came_up(self, child: Child, process: ChildProcess) -> bool:
        """Whether a child became ready at its first start. Raises: StartError."""
        spec, problem = child.spec, ""
        code = process.exit_code()
        if code is not None:
            problem = f"{spec.name} ended while starting ({_describe(code)})"
        elif spec.is_ready():
            self._became_ready(child)
        elif self._clock() - child.restart.started_at > spec.start_timeout:
            problem = f"{spec.name} was not ready after {spec.start_timeout:.0f} s"
        if problem:
            raise StartError(f"{process.tail()}\n{problem}; its last lines are above, all of them in {spec.log}.")
        return child.ready

    def _became_ready(self, child: Child) -> None:
        child.ready = True
        if child.process:
            child.process.remember_shared_memory()
        keep_off_the_engine([one.pid for one in self.children.values() if one.pid is not None])
        child.next_probe = self._clock() + self._supervision.probe_every

    def _look_after(self, child: Child) -> None:
        now = self._clock()
        if child.process is None:
            if child.restart.is_due(now):
                child.launch(now)
            return
        code = child.process.exit_code()
        if code is not None:
            self._give_up(child, f"ended ({_describe(code)})")
        elif child.ready:
            self._probe(child)
        elif child.spec.is_ready():
            self._became_ready(child)
            self._say(f"{child.spec.name} is ready again")
        elif now - child.restart.started_at > child.spec.start_timeout:
            self._give_up(child, f"was not ready after {child.spec.start_timeout:.0f} s")

    def _probe(self, child: Child) -> None:
        """Begin a probe when it is time, take in its result when it is there."""
        question = child.spec.is_alive
        if question is None:
            return
        if child.probe is None:
            if self._clock() >= child.next_probe:
                child.probe = Probe(child.spec, question)
                child.probe.start()
            return
        if child.probe.works is None and child.probe.is_alive():
            return
        child.liveness = child.liveness.probed(works=child.probe.works is True)
        if not child.probe.works:
            LOG.warning("%s does not answer (%d in a row)", child.spec.name, child.liveness.failures)
        child.probe = None
        child.next_probe = self._clock() + self._supervision.probe_every
        if child.liveness.is_dead:
            self._give_up(child, "runs but does not work")

    def _give_up(self, child: Child, why: str) -> None:
        """End what is left of a child and plan its restart."""
        if child.process:
            child.process.kill()
        child.process, child.ready = None, False
        child.restart = child.restart.ended(self._clock(), self._supervision.backoff)
        wait = (child.restart.start_at or 0.0) - self._clock()
        self._say(f"{child.spec.name} {why}: it starts again in {wait:.1f} s (log: {child.spec.log})")


def _describe(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"ended by signal {-code}"
