"""Spans of a real gateway before a real tritonserver, at a real collector; and no requests lost with it."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.collector import Collector, Span
from tests.support.gateway import GatewayClient, events, wait_until
from trireme.stack import EmbeddedStack, isolated_settings

pytestmark = pytest.mark.integration
CLIENTS_SPAN = "00f067aa0ba902b7"
PROMPT = "a secret that no span may hold"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayClient]:
    """One request at a time; all of them are traced."""
    settings = isolated_settings(tmp_path_factory.mktemp("traced"), engine="scripted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIREME_OTLP_ENDPOINT", collector.url)
        patch.setenv("TRIREME_MAX_RUNNING", "1")
        with EmbeddedStack(settings) as stack:
            yield GatewayClient(stack)


def queued(gateway: GatewayClient) -> int:
    return sum(one["queued"] for one in gateway.get("/admin/v1/admission").json()["classes"].values())


def running(gateway: GatewayClient) -> int:
    return int(gateway.get("/admin/v1/admission").json()["running"])


def trace_of(collector: Collector, number: str, spans: int) -> dict[str, Span]:
    wait_until(lambda: len(collector.trace(number)) >= spans, "the spans are here")
    return collector.trace(number)


def ask_behind_another(gateway: GatewayClient, **fields: Any) -> Any:
    """A chat that has to wait for a turn."""
    first = gateway.ask(max_tokens=2000, script={"delay_ms": 20})
    wait_until(lambda: running(gateway) == 1, "the place is taken")
    answers: list[Any] = []
    second = threading.Thread(target=lambda: answers.append(gateway.chat(**fields)))
    second.start()
    wait_until(lambda: queued(gateway) == 1, "the second waits")
    first.leave()
    second.join(30)
    return answers[0]


def test_a_request_that_waited_shows_place_and_time_and_continues_the_clients_trace(
    gateway: GatewayClient, collector: Collector
) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-{CLIENTS_SPAN}-01", "x-priority": "batch"}
    messages = [{"role": "user", "content": PROMPT}]
    answer = ask_behind_another(
        gateway, headers=headers, messages=messages, max_tokens=5, stream=True, script={"delay_ms": 5}
    )
    assert events(answer)[-1] == {"done": True}
    spans = trace_of(collector, trace, 12)
    root = spans.pop("chat smollm2-135m-instruct")
    assert (root.parent, root.service) == (CLIENTS_SPAN, "trireme-gateway")
    assert root.attributes["trireme.queue.position"] == 1
    assert 0 < root.attributes["trireme.queue.seconds"] <= (root.end - root.start) / 1e9
    assert root.attributes["trireme.priority"] == "batch"
    assert (root.attributes["trireme.tenant"], root.attributes["trireme.backend"]) == ("dev", "triton")
    assert root.attributes["gen_ai.usage.output_tokens"] == 5
    stages = [one.partition(";")[0] for one in answer.headers["server-timing"].split(", ")]
    assert {*stages} <= spans.keys()
    parents = {root.id: root, spans["triton"].id: spans["triton"]}
    for span in spans.values():
        parent = parents[span.parent]
        assert parent.start <= span.start <= span.end <= parent.end, span.name
    assert spans["engine.decode"].end - spans["engine.decode"].start > 10_000_000
    assert PROMPT not in str(collector.spans)


def test_a_request_whose_turn_never_came_shows_how_long_it_waited(gateway: GatewayClient, collector: Collector) -> None:
    trace = "5bf92f3577b34da6a3ce929d0e0e4736"
    first = gateway.ask(max_tokens=2000, script={"delay_ms": 20})
    wait_until(lambda: running(gateway) == 1, "the place is taken")
    answer = gateway.chat(headers={"traceparent": f"00-{trace}-{CLIENTS_SPAN}-01", "x-deadline-ms": "1000"})
    first.leave()
    assert answer.status_code == 504
    assert 'admission;desc="place 1";dur=' in answer.headers["server-timing"]
    spans = trace_of(collector, trace, 5)
    root = spans["chat smollm2-135m-instruct"]
    assert root.attributes["error.type"] == "deadline_exceeded"
    assert 0 < root.attributes["trireme.queue.seconds"] < 1.5
    assert spans["admission"].attributes["trireme.queue.position"] == 1


def test_requests_go_on_when_the_collector_dies(gateway: GatewayClient, collector: Collector) -> None:
    collector.stop()
    for _ in range(3):
        assert gateway.chat(max_tokens=2).status_code == 200

    def dropped() -> bool:
        return 'trireme_spans_dropped_total{reason="not_sent"}' in gateway.get("/metrics").text

    wait_until(dropped, "what cannot be sent is counted")
    assert gateway.chat(max_tokens=2).status_code == 200
