"""The engine's metrics on Triton's /metrics page, copied off the token path.

vLLM keeps its metrics in prometheus_client's registry. Every few seconds one thread copies the samples that changed
into Triton metrics of the same names and labels. A histogram's `_bucket`, `_sum` and `_count` series become counters
of these names: the page reads the same to Prometheus, and no observation has to cross to Triton on its own.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import prometheus_client
import triton_python_backend_utils as pb_utils

from python_backends.llm.engine import EngineState, ShelfState

log = logging.getLogger(__name__)

PREFIX = "vllm:"
Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Sample:
    """One series' value. `kind`: how Triton must treat it."""

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    labels: Labels
    value: float


def vllm_samples(registry: prometheus_client.CollectorRegistry) -> Iterator[Sample]:
    """All series of vLLM in a registry; `_created` timestamps are left out."""
    for family in registry.collect():
        if not family.name.startswith(PREFIX):
            continue
        kind: Literal["gauge", "counter"] = "gauge" if family.type == "gauge" else "counter"
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                labels = tuple(sorted(sample.labels.items()))
                yield Sample(sample.name, kind, family.documentation, labels, sample.value)


def preemption_samples(state: EngineState) -> list[Sample]:
    """What preemptions cost since the engine's start; vLLM has no metrics of most of it."""
    counted = {
        "preemptions": ("Running requests that were paused for more urgent ones or for memory", state.preemptions),
        "paused_seconds": ("Seconds that paused requests did not run", state.paused_s),
        "recomputed_tokens": ("Tokens of paused requests whose KV was computed again", state.recomputed_tokens),
        "reused_tokens": ("Tokens of paused requests whose KV was found again", state.reused_tokens),
    }
    return [
        Sample(f"trireme_engine_{name}_total", "counter", help, (), value) for name, (help, value) in counted.items()
    ]


def adapter_samples(shelf: ShelfState) -> list[Sample]:
    """What the adapters' comings and goings cost; none where none are served."""
    if not shelf.places:
        return []
    counted = {
        "loads": ("Adapters that were loaded", shelf.loads),
        "load_seconds": ("Seconds that loading them took", shelf.load_s),
        "evictions": ("Adapters that gave their place to another one", shelf.evictions),
        "failures": ("Adapters that were asked for and could not be loaded", shelf.failures),
    }
    samples = [Sample("trireme_engine_adapters", "gauge", "Adapters in the engine's memory", (), len(shelf.loaded))]
    for name, (help, value) in counted.items():
        samples.append(Sample(f"trireme_engine_adapter_{name}_total", "counter", help, (), value))
    return samples


def changed(samples: Iterable[Sample], known: Mapping[tuple[str, Labels], float]) -> list[Sample]:
    """Those that are new or differ from what was copied last."""
    return [one for one in samples if known.get((one.name, one.labels)) != one.value]


class MetricsMirror:
    """`interval`: seconds between copies. `labels` are put on every series (two versions may run side by side).

    `source` tells all series as they are now.
    """

    def __init__(self, interval: float, labels: Mapping[str, str], source: Callable[[], Iterable[Sample]]) -> None:
        self._interval = interval
        self._source = source
        self._labels = dict(labels)
        self._families: dict[str, Any] = {}
        self._metrics: dict[tuple[str, Labels], Any] = {}
        self._known: dict[tuple[str, Labels], float] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._interval):
            try:
                self.copy(self._source())
            except Exception:  # a background thread: a failed copy is logged and the next one tried
                log.exception("the engine's metrics could not be copied")

    def copy(self, samples: Iterable[Sample]) -> None:
        for sample in changed(samples, self._known):
            key = (sample.name, sample.labels)
            metric = self._metrics.get(key) or self._create(sample)
            if sample.kind == "gauge":
                metric.set(sample.value)
            elif (growth := sample.value - self._known.get(key, 0.0)) > 0:
                metric.increment(growth)
            self._known[key] = sample.value

    def _create(self, sample: Sample) -> Any:
        family = self._families.get(sample.name)
        if family is None:
            kind = pb_utils.MetricFamily.GAUGE if sample.kind == "gauge" else pb_utils.MetricFamily.COUNTER
            family = pb_utils.MetricFamily(name=sample.name, description=sample.help, kind=kind)
            self._families[sample.name] = family
        metric = family.Metric(labels={**dict(sample.labels), **self._labels})
        self._metrics[sample.name, sample.labels] = metric
        return metric
