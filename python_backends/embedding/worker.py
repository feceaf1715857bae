"""One thread that embeds what waits, several requests in one run, and large ones in pieces."""

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from python_backends.embedding.embedder import Embedder, Vectors
from python_backends.messages import Pooling

log = logging.getLogger(__name__)

RUN_TOKENS = 16_384


@dataclass(eq=False)
class Job:
    """`done` gets [len(inputs), dimensions], or the exception; it is called on the worker's thread."""

    inputs: Sequence[Sequence[int]]
    pooling: Pooling
    done: Callable[[Vectors | Exception], None]
    _left: list[int] = field(init=False)
    _vectors: Vectors | None = None

    def __post_init__(self) -> None:
        """Longest last: they are taken from the end, so that what runs together has like lengths."""
        self._left = sorted(range(len(self.inputs)), key=lambda place: len(self.inputs[place]))

    def take(self, tokens: int) -> list[int]:
        """Places of inputs of about so many tokens, at least one."""
        places = [self._left.pop()]
        tokens -= len(self.inputs[places[0]])
        while self._left and len(self.inputs[self._left[-1]]) <= tokens:
            places.append(self._left.pop())
            tokens -= len(self.inputs[places[-1]])
        return places

    def put(self, places: list[int], vectors: Vectors) -> Vectors | None:
        """All of them, if these were the last."""
        if self._vectors is None:
            self._vectors = np.empty((len(self.inputs), vectors.shape[1]), dtype=np.float32)
        self._vectors[places] = vectors
        return None if self._left else self._vectors


class EmbeddingWorker:
    """Takes a share of every job that waits and runs them together, `run_tokens` at a time: many small requests make
    one forward pass, and none of them waits for all of a large one.
    """

    def __init__(self, embedder: Embedder, run_tokens: int = RUN_TOKENS) -> None:
        self._embedder = embedder
        self._run_tokens = run_tokens
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._jobs: deque[Job] = deque()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="embedding", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Finish what waits, then end."""
        self._queue.put(None)
        self._thread.join()

    def submit(self, job: Job) -> None:
        self._queue.put(job)

    def _run(self) -> None:
        while self._gather():
            self._embed(self._shares())

    def _gather(self) -> bool:
        """Every job that waits; without any, until there is one. Returns whether there is work."""
        while not self._ending:
            try:
                job = self._queue.get(block=not self._jobs)
            except queue.Empty:
                break
            if job is None:
                self._ending = True
            else:
                self._jobs.append(job)
        return bool(self._jobs)

    def _shares(self) -> list[tuple[Job, list[int]]]:
        """Of jobs with the same pooling as the first, which is another one each time."""
        self._jobs.rotate(-1)
        pooling = self._jobs[0].pooling
        alike = [job for job in self._jobs if job.pooling == pooling]
        share, left, found = self._run_tokens // len(alike), self._run_tokens, []
        for job in alike:
            places = job.take(max(share, 1))
            found.append((job, places))
            left -= sum(len(job.inputs[place]) for place in places)
            if left <= 0:
                break
        return found

    def _embed(self, shares: list[tuple[Job, list[int]]]) -> None:
        try:
            inputs = [job.inputs[place] for job, places in shares for place in places]
            vectors = self._embedder.embed(inputs, shares[0][0].pooling)
        except Exception as error:  # a thread that every request depends on: the jobs fail, the worker goes on
            log.exception("embedding failed")
            for job, _ in shares:
                self._answer(job, error)
            return
        start = 0
        for job, places in shares:
            whole = job.put(places, vectors[start : start + len(places)])
            if whole is not None:
                self._answer(job, whole)
            start += len(places)

    def _answer(self, job: Job, result: Vectors | Exception) -> None:
        self._jobs.remove(job)
        try:
            job.done(result)
        except Exception:  # a thread that every request depends on: one that cannot be answered must not end it
            log.exception("an embedding could not be sent")
