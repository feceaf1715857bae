"""Every request is written down once, however it ends."""

import asyncio
import logging

import pytest

from gateway.accounting.entries import entry_of
from gateway.accounting.ledger import Ledger
from gateway.accounting.measurements import Measurements
from gateway.accounting.outcome import Outcome
from gateway.accounting.prices import Prices
from gateway.accounting.settings import AccountingSettings
from gateway.core.call import Call, Usage
from gateway.core.routed import Routed
from gateway.errors import Overloaded
from gateway.telemetry.logs import FIELDS
from gateway.telemetry.metrics import Metrics
from tests.unit.gateway.accounting.making import new_call

PRICES = Prices(AccountingSettings(prompt_price=2.0, cached_price=0.5, completion_price=8.0))


class Told:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.prices: list[int] = []

    def record(self, call: Call, outcome: Outcome, seconds: float) -> None:
        assert seconds >= 0
        self.outcomes.append(outcome)
        self.prices.append(call.price)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def ledger(told: Told) -> Ledger:
    return Ledger(PRICES, [told])


def test_a_call_is_told_once_by_its_first_ending(ledger: Ledger, told: Told) -> None:
    call = new_call()
    with pytest.raises(Overloaded), ledger.entry(call):
        raise Overloaded("x")
    ledger.close(call, Outcome(200))
    assert told.outcomes == [Outcome(429, "overloaded")]


def test_a_cancelled_call_is_told_and_stays_cancelled(ledger: Ledger, told: Told) -> None:
    with pytest.raises(asyncio.CancelledError), ledger.entry(new_call()):
        raise asyncio.CancelledError
    assert [one.name for one in told.outcomes] == ["cancelled"]


def test_the_price_is_known_before_anybody_is_told(ledger: Ledger, told: Told) -> None:
    with ledger.entry(new_call(usage=Usage(prompt=10, cached=4, completion=3))):
        pass
    assert told.prices == [6 * 2000 + 4 * 500 + 3 * 8000]


def test_the_line_in_the_log_has_tokens_and_price(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "trireme.access"):
        ledger.close(new_call(usage=Usage(prompt=10, completion=3)), Outcome(200))
    [line] = [getattr(record, FIELDS) for record in caplog.records]
    assert line["tokens"] == {"prompt": 10, "cached": 0, "completion": 3}
    assert line["price"] == pytest.approx(0.000044)
    assert (line["tenant"], line["key_id"], line["outcome"]) == ("acme", "key_1", "ok")


def test_routine_requests_are_not_in_the_log_but_counted(
    ledger: Ledger, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "trireme.access"):
        ledger.close(new_call(route="/metrics"), Outcome(200), logging.DEBUG)
    assert caplog.records == []
    assert len(told.outcomes) == 1


def test_metrics_count_requests_by_outcome_and_tokens_by_kind() -> None:
    metrics = Metrics()
    ledger = Ledger(PRICES, [Measurements(metrics)])
    ledger.close(new_call(usage=Usage(prompt=10, cached=4, completion=3)), Outcome(429, "overloaded"))
    value = metrics.registry.get_sample_value
    labels = {"route": "/v1/chat/completions", "model": "tiny"}
    assert value("trireme_requests_total", labels | {"outcome": "refused", "status": "429"}) == 1
    assert value("trireme_requests_total", labels | {"outcome": "ok", "status": "200"}) is None
    tokens = {
        kind: value("trireme_tokens_total", {"model": "tiny", "kind": kind})
        for kind in ("prompt", "cached", "completion")
    }
    assert tokens == {"prompt": 10, "cached": 4, "completion": 3}


@pytest.mark.parametrize("call", [new_call(caller=None), new_call(route="/v1/models"), new_call(route="/tokenize")])
def test_strangers_and_other_addresses_are_not_in_the_ledger(call: Call) -> None:
    assert entry_of(call, Outcome(200), 0.0) is None


def test_an_entry_says_what_happened_when_and_to_whom() -> None:
    call = new_call(usage=Usage(prompt=10, cached=4, completion=3), stream=True, backend="triton", price=9)
    call.stages["tokens"] = 1.23456
    call.first_token_at = call.started + 0.25
    entry = entry_of(call, Outcome(502, "backend_lost"), 1.5)
    assert entry is not None
    assert (entry.tenant, entry.key_id, entry.model, entry.backend) == ("acme", "key_1", "tiny", "triton")
    assert (entry.outcome, entry.status, entry.code) == ("failed", 502, "backend_lost")
    assert (entry.prompt_tokens, entry.cached_tokens, entry.completion_tokens, entry.price) == (10, 4, 3, 9)
    assert (entry.ms, entry.ttft_ms, entry.stages_ms) == (1500.0, pytest.approx(250.0), {"tokens": 1.235})


def test_what_the_cache_spared_and_where_it_waited_are_in_entry_and_line(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    hit = new_call(cache="hit-exact", spared=Usage(prompt=10, completion=3))
    waited = new_call(priority_class="batch", queue_position=7)
    waited.stages["admission"] = 12.5
    with caplog.at_level(logging.INFO, "trireme.access"):
        ledger.close(hit, Outcome(200))
        ledger.close(waited, Outcome(200))
    lines = [getattr(record, FIELDS) for record in caplog.records]
    assert (lines[0]["cache"], lines[0]["tokens"]["prompt"]) == ("hit-exact", 0)
    assert (lines[1]["queue_position"], lines[1]["stages_ms"]["admission"]) == (7, 12.5)
    spared, queued = (entry_of(call, Outcome(200), 1.0) for call in (hit, waited))
    assert spared is not None and queued is not None
    assert (spared.cache, spared.spared_tokens, spared.spared_price) == ("hit-exact", 13, 10 * 2000 + 3 * 8000)
    assert (queued.priority, queued.queue_position, queued.stages_ms["admission"]) == ("batch", 7, 12.5)


def test_a_request_whose_body_made_no_sense_has_an_entry_without_model() -> None:
    entry = entry_of(new_call(model=None), Outcome(400, "invalid_json"), 0.0)
    assert entry is not None
    assert (entry.model, entry.outcome, entry.prompt_tokens) == (None, "refused", 0)


def test_what_a_router_decided_is_in_the_entry_and_all_of_it_in_the_line(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    verdicts = {"huge": "target 0.7 (0.900)"}
    routed = Routed(router="auto", model="tiny", reason="target", score=0.25, predicted=0.75, verdicts=verdicts)
    call = new_call(routed=routed)
    with caplog.at_level(logging.INFO, "trireme.access"), ledger.entry(call):
        pass
    assert getattr(caplog.records[0], FIELDS)["routed"]["verdicts"] == verdicts
    entry = entry_of(call, Outcome(200), 1.0)
    assert entry is not None
    assert (entry.router, entry.router_reason, entry.router_score, entry.model) == ("auto", "target", 0.25, "tiny")


def test_a_header_takes_no_character_that_headers_cannot() -> None:
    routed = Routed(router="auto", model="m", reason="rule", rule='größe"\n', verdicts={"n": "rule wants m"})
    assert routed.header() == 'auto; model="m"; reason=rule; rule="gr??e??"; others="n: rule wants m"'
