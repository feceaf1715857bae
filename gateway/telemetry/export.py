"""Spans on their way to a collector: a bounded queue, and one thread that encodes and sends.

No request ever waits for it. What cannot be sent is dropped and counted, never kept for later: a trace is worth less
than the memory it would take.
"""

import asyncio
import logging
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from prometheus_client import Counter

log = logging.getLogger(__name__)

BATCH_REQUESTS = 64
# How long spans are gathered before they are sent.
GATHER_S = 0.5
# For one batch, tries again included: what cannot be sent by then is dropped.
SEND_TIMEOUT_S = 3.0


def otlp_exporter(endpoint: str) -> SpanExporter:
    """`endpoint`: the collector's address without a path. Imported only here: it brings an HTTP client of its own."""
    exporters = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    exporter: SpanExporter = exporters.OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=SEND_TIMEOUT_S)
    return exporter


class SpanQueue:
    """`dropped` counts spans by reason: `queue_full`, or `not_sent`."""

    def __init__(self, exporter: SpanExporter, most_requests: int, dropped: Counter) -> None:
        self._exporter = exporter
        self._most = most_requests
        self._dropped = dropped
        self._waiting: deque[list[ReadableSpan]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spans")

    def add(self, spans: list[ReadableSpan]) -> None:
        """All of one request. Never raises, never waits."""
        if len(self._waiting) >= self._most:
            self._dropped.labels("queue_full").inc(len(spans))
        else:
            self._waiting.append(spans)

    async def run(self) -> None:
        """Send what waits, for ever."""
        while True:
            await asyncio.sleep(GATHER_S)
            await self.send()

    async def send(self) -> None:
        """Everything that waits now."""
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(BATCH_REQUESTS, len(self._waiting)))]
            spans = [span for request in batch for span in request]
            sent = await asyncio.get_running_loop().run_in_executor(self._thread, self._send, spans)
            if not sent:
                self._dropped.labels("not_sent").inc(len(spans))

    async def close(self, patience_s: float) -> None:
        """What waits gets `patience_s` to be sent."""
        try:
            async with asyncio.timeout(patience_s):
                await self.send()
        except TimeoutError:
            log.warning("the spans of %d requests are lost: their collector does not take them", len(self._waiting))
        self._exporter.shutdown()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _send(self, spans: list[ReadableSpan]) -> bool:
        """In the thread, where the encoding is done too."""
        return self._exporter.export(spans) is SpanExportResult.SUCCESS
