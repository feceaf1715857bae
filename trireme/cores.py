"""Keeps everything else off the cores that the engine computes on.

vLLM's CPU worker binds one thread to each of its cores, and a step is as slow as its slowest core: a gateway or a
Triton model that wakes up there for a millisecond holds up all streams at once. Where enough cores are left, all other
processes of the stack are moved to those.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

LOG = logging.getLogger(__name__)
WORKER_TITLE = "VLLM::Worker"
# With fewer cores than this part of the machine, the others would get in each other's way.
LEAST_SHARE = 0.25


def rest_of(cores: frozenset[int], bound: Iterable[frozenset[int]]) -> frozenset[int]:
    """The cores for everybody else, empty when nobody is to be moved. `bound`: where each engine thread may run."""
    engine = frozenset().union(*(one for one in bound if one < cores))
    rest = cores - engine
    return rest if engine and len(rest) >= LEAST_SHARE * len(cores) else frozenset()


def keep_off_the_engine(roots: Sequence[int]) -> None:
    """Move the processes below `roots` (pids) off the engine's cores; does nothing where there is no engine."""
    processes = [process for pid in roots for process in _family(pid)]
    workers = [process for process in processes if _is_worker(process)]
    cores = frozenset(os.sched_getaffinity(0))
    rest = rest_of(cores, [_affinity(worker.pid) for worker in workers])
    if not rest:
        return
    for process in processes:
        if process not in workers:
            for thread in _threads(process.pid):
                with suppress(OSError):  # it has ended
                    os.sched_setaffinity(thread, rest)
    LOG.info("cores %s are for the engine, %s for everything else", sorted(cores - rest), sorted(rest))


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _is_worker(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return any(WORKER_TITLE in part for part in process.cmdline())
    return False


def _affinity(thread: int) -> frozenset[int]:
    with suppress(OSError):
        return frozenset(os.sched_getaffinity(thread))
    return frozenset()


def _threads(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()]
    return []
