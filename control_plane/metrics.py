"""What the control plane exports."""

from collections import Counter as Count
from collections.abc import Iterable
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from control_plane.experiments.state import Experiment, Trial
from control_plane.rollouts.state import OPEN, Rollout, Status


class Meters:
    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.leader = Gauge("trireme_control_leader", "1: this process acts, 0: another one does.", registry=registry)
        self.ticks = Counter("trireme_control_ticks", "Rounds of work.", ("outcome",), registry=registry)
        self.entries = Counter("trireme_control_entries", "Entries of the ledger that were read.", registry=registry)
        self.rollouts = Gauge("trireme_rollouts", "Rollouts that are on record.", ("status",), registry=registry)
        self.share = Gauge("trireme_rollout_share", "Of the canary, 0 to 1.", ("model",), registry=registry)
        self.decisions = Counter(
            "trireme_rollout_decisions", "Looks at the samples.", ("model", "action"), registry=registry
        )

        self.experiments = Gauge(
            "trireme_experiments", "Experiments and mirrorings that are under way.", ("kind",), registry=registry
        )

    def show(self, rollouts: Iterable[Rollout]) -> None:
        """All that are on record."""
        rollouts = list(rollouts)
        counts = Count(rollout.status for rollout in rollouts)
        for status in get_args(Status):
            self.rollouts.labels(status).set(counts[status])
        self.share.clear()
        for rollout in rollouts:
            if rollout.status in OPEN:
                self.share.labels(rollout.definition.model).set(rollout.share / 100)

    def show_trials(self, trials: Iterable[Trial]) -> None:
        """All that are on record."""
        counts = Count("experiment" if isinstance(one, Experiment) else "mirroring" for one in trials if one.under_way)
        for kind in ("experiment", "mirroring"):
            self.experiments.labels(kind).set(counts[kind])

    def render(self) -> bytes:
        return generate_latest(self.registry)
