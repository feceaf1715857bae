"""Spans that cannot be sent are dropped and counted; nobody waits for them."""

import asyncio
import threading
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from gateway.telemetry.export import BATCH_REQUESTS, SpanQueue
from gateway.telemetry.metrics import Metrics


class Collector(SpanExporter):
    """Takes spans while it is open and `works`."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.open = threading.Event()
        self.open.set()
        self.works = True
        self.ended = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.open.wait(5)
        self.batches.append([span.name for span in spans])
        return SpanExportResult.SUCCESS if self.works else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self.ended = True
        self.open.set()


def request(name: str = "x", spans: int = 2) -> list[ReadableSpan]:
    return [ReadableSpan(f"{name}{number}") for number in range(spans)]


def dropped(metrics: Metrics, reason: str) -> float:
    return metrics.registry.get_sample_value("trireme_spans_dropped_total", {"reason": reason}) or 0.0


async def test_what_waits_is_sent_in_batches_and_in_order() -> None:
    collector = Collector()
    queue = SpanQueue(collector, 1000, Metrics().spans_dropped)
    for number in range(BATCH_REQUESTS + 1):
        queue.add(request(f"{number}-", 1))
    await queue.send()
    assert [len(batch) for batch in collector.batches] == [BATCH_REQUESTS, 1]
    assert collector.batches[0][:2] == ["0-0", "1-0"]


async def test_a_full_queue_drops_the_newest_and_counts_its_spans() -> None:
    collector, metrics = Collector(), Metrics()
    queue = SpanQueue(collector, 2, metrics.spans_dropped)
    for name in ("a", "b", "c"):
        queue.add(request(name))
    await queue.send()
    assert collector.batches == [["a0", "a1", "b0", "b1"]]
    assert dropped(metrics, "queue_full") == 2


async def test_a_batch_that_the_collector_refuses_is_counted_and_not_kept() -> None:
    collector, metrics = Collector(), Metrics()
    queue = SpanQueue(collector, 10, metrics.spans_dropped)
    collector.works = False
    queue.add(request())
    await queue.send()
    collector.works = True
    queue.add(request("later"))
    await queue.send()
    assert collector.batches[1] == ["later0", "later1"]
    assert dropped(metrics, "not_sent") == 2


async def test_a_collector_that_hangs_holds_up_neither_the_loop_nor_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    collector = Collector()
    collector.open.clear()
    queue = SpanQueue(collector, 10, Metrics().spans_dropped)
    queue.add(request())
    async with asyncio.timeout(1):
        await queue.close(0.01)
    assert collector.ended
    assert "their collector does not take them" in caplog.text


async def test_what_waits_at_the_end_is_sent() -> None:
    collector = Collector()
    queue = SpanQueue(collector, 10, Metrics().spans_dropped)
    queue.add(request())
    await queue.close(1)
    assert collector.batches == [["x0", "x1"]]
