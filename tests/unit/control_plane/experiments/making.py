"""Experiments, mirrorings and what they are about."""

from typing import Any

import numpy as np

from control_plane.experiments.evidence import Copied, Evidence, Observed, Run
from control_plane.experiments.state import Experiment, Mirroring
from gateway.core.snapshot import Arm, Mirror


def experiment(identifier: str = "ex_1", model: str = "boats", now: float = 1000.0, **fields: Any) -> Experiment:
    given: dict[str, Any] = {"arms": {"a": 50, "b": 50}, "by": "session", "before": {"a": 1, "b": 0}, "planned": 2000}
    return Experiment(id=identifier, model=model, started_at=now, started_by="ann", **(given | fields))


def mirroring(identifier: str = "mi_1", model: str = "boats", now: float = 1000.0) -> Mirroring:
    mirror = Mirror(id=identifier, arm=Arm(name="new", group="canary"), fraction=0.5)
    return Mirroring(id=identifier, model=model, started_at=now, started_by="ann", mirror=mirror)


def observed(arm: str = "a", unit: str = "u", **fields: Any) -> Observed:
    given: dict[str, Any] = {"failed": False, "first_token_ms": 100.0, "per_token_ms": 10.0, "tokens": 8, "price": 500}
    return Observed(experiment="ex_1", arm=arm, unit=unit, **(given | fields))


def copied(of: str = "u", original: Run | None = None, copy: Run | None = None, same: bool | None = True) -> Copied:
    usual = Run(False, 100.0, 10.0, 8)
    return Copied(mirror="mi_1", of=of, original=original or usual, copy=copy or usual, same=same, price=500)


def evidence(requests: int, slower: float = 1.0, errors: float = 0.0, seed: int = 7) -> Evidence:
    """Of so many requests of each arm, each of a unit of its own. `slower`, `errors`: what `b` does worse."""
    dice, found = np.random.default_rng(seed), Evidence()
    for name, factor, failing in (("a", 1.0, 0.02), ("b", slower, 0.02 + errors)):
        times = 100.0 * factor * np.exp(dice.normal(0.0, 0.5, requests))
        failures = dice.random(requests) < failing
        for number in range(requests):
            seen = observed(name, f"{name}{number}", failed=bool(failures[number]), first_token_ms=float(times[number]))
            found.arm(name).add(seen)
    return found
