"""Answers in a cluster of three real nodes."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Gauge

from gateway.cache.answers import Answer
from gateway.cache.keys import Place, questions_of
from gateway.cache.semantic.question import Question, encode_question
from gateway.cache.settings import CacheSettings
from gateway.cache.shelf import FROM_THE_START, Amount, Shelf
from gateway.telemetry.metrics import Metrics
from gateway.valkey.cluster import ClusterWire
from gateway.valkey.connection import Valkey, ValkeySettings
from gateway.valkey.outbox import Outbox
from tests.support.cluster import Cluster, cluster

ANSWER = Answer(1000.0, "1", (1, 2, 0), [(b"{}", 2)])
TENANTS = [f"tenant-{number}" for number in range(12)]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Cluster]:
    with cluster(tmp_path / "cluster") as running:
        yield running


async def test_all_of_a_tenant_lies_on_one_node_and_tenants_on_all(nodes: Cluster) -> None:
    wire = ClusterWire(nodes.url)
    degraded = Gauge("degraded", "", registry=CollectorRegistry())
    valkey = Valkey(wire, ValkeySettings(call_timeout_s=2.0, failures=1000), degraded)
    outbox = Outbox(valkey)
    shelf = Shelf(valkey, outbox, CacheSettings(), "one", Metrics().cache_stores)
    places = [Place(tenant, f"tiny@1:{number}") for tenant in TENANTS for number in range(3)]
    for place in places:
        missing = await shelf.find(place, make=True)
        assert (missing.answer, missing.purges, missing.mine) == (None, b"0", True)
        question = encode_question(place.owner, Question("Why?", "p"), np.ones(3, dtype=np.float32), 1e12)
        shelf.keep(place, ANSWER, missing.purges, 100, question)
    await outbox.flush()
    assert [(await shelf.find(place, make=True)).answer for place in places] == [ANSWER] * len(places)
    assert min(len(node.keys("trireme:*")) for node in nodes.nodes) > 0
    assert {len((await shelf.asked(tenant, FROM_THE_START)).questions) for tenant in TENANTS} == {3}
    assert await shelf.purge(TENANTS[0], "tiny@1:") == 3
    assert await shelf.amount(TENANTS[0]) == Amount(0, 0)
    assert [node.keys(f"{questions_of(TENANTS[0])}*") for node in nodes.nodes] == [[], [], []]
    assert (await shelf.amount(TENANTS[1])).answers == 3
    wire.drop()
