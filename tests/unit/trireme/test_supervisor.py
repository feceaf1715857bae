"""Supervision of real processes; time is a variable of the test."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trireme.errors import Interrupted, StartError
from trireme.process import adopt_orphans, session_members, wait_until_gone
from trireme.restart import Backoff
from trireme.supervisor import ChildSpec, Supervision, Supervisor

# A parent, a child that a SIGTERM does not impress, and a line that says that both are there.
STUBBORN = "trap '' TERM; (trap '' TERM; sleep 60) & echo up; while :; do sleep 60; done"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Stage:
    """A supervisor with shell scripts for children, and everything it said."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = Clock()
        self.said: list[str] = []
        self.stop = threading.Event()
        self.supervisor: Supervisor

    def spec(self, name: str, script: str = "echo up; exec sleep 60", **changes: Any) -> ChildSpec:
        log = self.directory / f"{name}.log"
        values: dict[str, Any] = {
            "name": name,
            "argv": ("/bin/sh", "-c", script),
            "environment": {"PATH": os.environ["PATH"]},
            "log": log,
            "cwd": self.directory,
            "is_ready": lambda: log.exists() and "up" in log.read_text(),
            "start_timeout": 20.0,
            "stop_by": 1.0,
        }
        return ChildSpec(**{**values, **changes})

    def start(self, *specs: ChildSpec) -> Supervisor:
        supervision = Supervision(backoff=Backoff(first=4.0), probe_every=30.0)
        self.supervisor = Supervisor(specs, self.said.append, supervision, self.clock)
        self.supervisor.start(self.stop)
        return self.supervisor

    def tick_until(self, condition: Callable[[], bool], attempts: int = 500) -> None:
        """Let real processes do what they do, while the stage's own clock stands still."""
        pause = threading.Event()
        for _ in range(attempts):
            self.supervisor.tick()
            if condition():
                return
            pause.wait(0.01)
        raise AssertionError(f"it never came: {self.said}")


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    adopt_orphans()  # as the stack does
    made = Stage(tmp_path)
    yield made
    made.supervisor.shutdown()


def test_parts_start_in_order_each_when_the_one_before_is_ready(stage: Stage) -> None:
    order: list[str] = []
    first = stage.spec("first", when_ready=lambda: order.append("first is ready"))
    second = stage.spec("second", when_ready=lambda: order.append("second is ready"))
    supervisor = stage.start(first, second)
    assert order == ["first is ready", "second is ready"]
    assert supervisor.all_ready()
    assert [line for line in stage.said if line.startswith("starting")] == ["starting first", "starting second"]


def test_a_part_that_ends_while_starting_is_told_with_its_last_lines(stage: Stage) -> None:
    with pytest.raises(StartError, match=r"(?s)no such model.*broken ended while starting \(exit code 3\)"):
        stage.start(stage.spec("broken", "echo no such model; exit 3"))


def test_only_the_lines_of_this_very_run_are_shown(stage: Stage) -> None:
    (stage.directory / "broken.log").write_text("an old failure\n")
    with pytest.raises(StartError) as caught:
        stage.start(stage.spec("broken", "echo a new failure; exit 1"))
    assert "a new failure" in str(caught.value)
    assert "an old failure" not in str(caught.value)


def test_a_part_that_never_becomes_ready_is_given_up(stage: Stage) -> None:
    def never() -> bool:
        stage.clock.now += 15.0
        return False

    with pytest.raises(StartError, match="slow was not ready after 20 s"):
        stage.start(stage.spec("slow", is_ready=never))


def test_a_stop_while_starting_is_obeyed(stage: Stage) -> None:
    stage.stop.set()
    with pytest.raises(Interrupted):
        stage.start(stage.spec("slow", is_ready=lambda: False))


def test_a_part_that_dies_is_restarted_after_its_wait_and_not_before(stage: Stage) -> None:
    supervisor = stage.start(stage.spec("part"))
    child = supervisor.children["part"]
    first = child.pid
    supervisor.kill("part")
    stage.tick_until(lambda: child.pid is None)
    assert not supervisor.all_ready()
    assert "part ended (ended by SIGKILL): it starts again in 4.0 s" in stage.said[-1]

    stage.clock.now += 3.9
    supervisor.tick()
    assert child.pid is None

    stage.clock.now += 0.2
    stage.tick_until(supervisor.all_ready)
    assert child.pid not in (None, first)
    assert stage.said[-1] == "part is ready again"


def test_a_restarted_part_is_told_what_has_changed_meanwhile(stage: Stage) -> None:
    words = ["first"]
    spec = stage.spec("part", 'echo up "$0"; exec sleep 60', late_argv=lambda: list(words))
    supervisor = stage.start(spec)
    words[0] = "second"
    supervisor.kill("part")
    stage.tick_until(lambda: supervisor.children["part"].pid is None)
    stage.clock.now += 5.0
    stage.tick_until(lambda: "up second" in spec.log.read_text())


def test_what_a_dead_part_leaves_behind_is_ended_before_the_restart(stage: Stage) -> None:
    supervisor = stage.start(stage.spec("part", STUBBORN))
    child = supervisor.children["part"]
    first = child.pid
    assert first is not None
    assert len(session_members(first)) > 1
    supervisor.kill("part")
    stage.tick_until(lambda: child.pid is None)
    assert session_members(first) == []


def test_a_part_that_runs_but_does_not_work_is_restarted_after_two_probes(stage: Stage) -> None:
    answers = iter([True, False, False])
    supervisor = stage.start(stage.spec("part", is_alive=lambda: next(answers)))
    child = supervisor.children["part"]
    for failures in (0, 1):
        stage.clock.now += 30.0
        stage.tick_until(lambda: child.probe is not None)
        stage.tick_until(lambda: child.probe is None)
        assert child.liveness.failures == failures
    stage.clock.now += 30.0
    stage.tick_until(lambda: child.pid is None)
    assert "part runs but does not work" in stage.said[-1]


def test_a_part_that_is_starting_is_not_probed(stage: Stage) -> None:
    asked, ready = threading.Event(), threading.Event()
    ready.set()

    def is_alive() -> bool:
        asked.set()
        return True

    spec = stage.spec("part", is_ready=ready.is_set, is_alive=is_alive, start_timeout=10_000.0)
    supervisor = stage.start(spec)
    ready.clear()
    supervisor.kill("part")
    child = supervisor.children["part"]
    stage.tick_until(lambda: child.pid is None)
    stage.clock.now += 5.0
    stage.tick_until(lambda: child.pid is not None)
    stage.clock.now += 300.0
    supervisor.tick()
    assert not asked.is_set()


def test_shutdown_is_in_reverse_order_and_ends_even_those_who_ignore_it(stage: Stage) -> None:
    supervisor = stage.start(stage.spec("first"), stage.spec("second", STUBBORN, stop_by=0.0))
    sessions = [child.pid for child in supervisor.children.values()]
    supervisor.shutdown()
    assert stage.said[-2:] == ["second has stopped", "first has stopped"]
    assert all(session is not None and session_members(session) == [] for session in sessions)


def test_children_have_sessions_of_their_own_so_that_ctrl_c_does_not_reach_them(stage: Stage) -> None:
    supervisor = stage.start(stage.spec("part"))
    pid = supervisor.children["part"].pid
    assert pid is not None
    assert os.getsid(pid) == pid != os.getsid(0)


def test_children_end_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    """A second supervisor, in a process of its own, dies without any chance to clean up."""
    code = (
        "import os, sys, pathlib, signal\n"
        "from trireme.process import ChildProcess\n"
        "here = pathlib.Path(sys.argv[1])\n"
        "child = ChildProcess(['/bin/sleep', '60'], dict(os.environ), here / 'log', here)\n"
        "print(child.pid, flush=True)\n"
        "signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    assert wait_until_gone(pid, timeout=10.0)


def test_shared_memory_of_a_killed_part_is_given_back(stage: Stage) -> None:
    code = (
        "import mmap, os, signal, sys\n"
        "file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\n"
        "os.truncate(file, 4096)\n"
        "region = mmap.mmap(file, 4096)\n"
        "print('up', flush=True)\n"
        "signal.pause()\n"
    )
    region = Path(f"/dev/shm/trireme-test-{os.getpid()}")
    supervisor = stage.start(stage.spec("part", argv=(sys.executable, "-c", code, str(region))))
    assert region.exists()
    supervisor.kill("part")
    stage.tick_until(lambda: supervisor.children["part"].pid is None)
    assert not region.exists()
