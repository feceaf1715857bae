"""An OpenTelemetry collector: takes OTLP over HTTP, as protobuf, and keeps the spans."""

import asyncio
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

STOP_SECONDS = 10.0


@dataclass(frozen=True)
class Span:
    """Ids in hexadecimal, `parent` empty without one; times in nanoseconds since 1970."""

    name: str
    trace: str
    id: str
    parent: str
    start: int
    end: int
    attributes: dict[str, Any]
    service: str


class Collector:
    """Runs in a thread between `with` and its end, or `stop`."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="collector")

    def trace(self, number: str) -> dict[str, Span]:
        """By name: of a trace in which no name comes twice."""
        return {span.name: span for span in self.spans if span.trace == number}

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(STOP_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Close every connection and take no more."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        app = web.Application()
        app.router.add_post("/v1/traces", self._take)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", 0).start())
        self.url = "http://{}:{}".format(*runner.addresses[0][:2])
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _take(self, request: web.Request) -> web.Response:
        sent = ExportTraceServiceRequest.FromString(await request.read())
        for resource in sent.resource_spans:
            service = {one.key: one.value.string_value for one in resource.resource.attributes}["service.name"]
            for scope in resource.scope_spans:
                self.spans += [_span(one, service) for one in scope.spans]
        return web.Response()


def _span(sent: Any, service: str) -> Span:
    attributes = {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in sent.attributes}
    ids = (sent.trace_id.hex(), sent.span_id.hex(), sent.parent_span_id.hex())
    return Span(sent.name, *ids, sent.start_time_unix_nano, sent.end_time_unix_nano, attributes, service)
