"""Metrics of who waits, by tenant: those with most requests waiting have a label of their own, all others share one."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from gateway.admission.line import Line
from gateway.core.identity import PriorityClass

OTHER: Final = "other"
MOST_LABELS = 20


class WaitingTenants(Collector):
    """Looked up when somebody asks: at most `MOST_LABELS` tenants of each class, and the rest as `other`.

    The sum over the tenants of a class is the length of its queue. A tenant that does not wait has no series.
    """

    def __init__(self, lines: Mapping[PriorityClass, Line]) -> None:
        self._lines = lines

    def collect(self) -> Iterator[GaugeMetricFamily]:
        queued = GaugeMetricFamily(
            "trireme_admission_tenant_queued", "Requests waiting for their turn, by tenant.", labels=["class", "tenant"]
        )
        for name, line in self._lines.items():
            for tenant, number in _labelled(dict(line.tenants())).items():
                queued.add_metric([name, tenant], number)
        yield queued


def _labelled(queued: Mapping[str, int]) -> Counter[str]:
    """A tenant whose name is `other` has no label of its own."""
    busiest = sorted(queued, key=lambda tenant: (-queued[tenant], tenant))[:MOST_LABELS]
    labelled: Counter[str] = Counter()
    for tenant, number in queued.items():
        labelled[tenant if tenant in busiest else OTHER] += number
    return labelled
