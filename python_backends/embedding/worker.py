"""One thread that embeds what waits, several requests in one batch."""

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from python_backends.embedding.embedder import Embedder, Vectors

log = logging.getLogger(__name__)

MAX_INPUTS_PER_RUN = 2048


@dataclass(frozen=True)
class Job:
    """`done` gets [len(inputs), dimensions], or the exception; it is called on the worker's thread."""

    inputs: Sequence[Sequence[int]]
    done: Callable[[Vectors | Exception], None]


class EmbeddingWorker:
    """Takes all jobs that wait and runs them together, so that many small requests share a forward pass."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
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
        while (job := self._queue.get()) is not None:
            jobs, ending = self._gather(job)
            self._embed(jobs)
            if ending:
                return

    def _gather(self, first: Job) -> tuple[list[Job], bool]:
        """Every job that waits already, up to the bound; and whether the end was among them."""
        jobs, inputs = [first], len(first.inputs)
        while inputs < MAX_INPUTS_PER_RUN:
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return jobs, False
            if job is None:
                return jobs, True
            jobs.append(job)
            inputs += len(job.inputs)
        return jobs, False

    def _embed(self, jobs: list[Job]) -> None:
        try:
            vectors = self._embedder.embed([ids for job in jobs for ids in job.inputs])
        except Exception as error:  # a thread that every request depends on: the jobs fail, the worker goes on
            log.exception("embedding failed")
            for job in jobs:
                job.done(error)
            return
        start = 0
        for job in jobs:
            job.done(vectors[start : start + len(job.inputs)])
            start += len(job.inputs)
