"""Rollouts and what they are about."""

import json
from typing import Any

from redis.asyncio import Redis

from control_plane.ledger import STREAM
from control_plane.rollouts import state
from control_plane.rollouts.evidence import ArmEvidence, Evidence, Reservoir
from control_plane.rollouts.state import Definition, Rollout, Rules
from gateway.core.snapshot import Arm

OLD, NEW = Arm(name="old"), Arm(name="new", group="canary")
QUICK = Rules(min_samples=50, min_step_s=0.0, first_look=50)


def definition(rules: Rules = QUICK, model: str = "boats") -> Definition:
    return Definition(model=model, stable=OLD, canary=NEW, rules=rules)


def rollout(rules: Rules = QUICK, model: str = "boats", identifier: str = "ro_1", now: float = 1000.0) -> Rollout:
    return state.start(identifier, definition(rules, model), "ann", now)


def arm(requests: int, errors: int = 0, first: float = 100.0, per_token: float = 10.0) -> ArmEvidence:
    """Latencies are spread evenly, within 10 % of the given ones."""
    good = requests - errors
    shares = [0.9 + 0.2 * number / max(1, good - 1) for number in range(good)]
    return ArmEvidence(
        requests=requests,
        errors=errors,
        first_token_ms=Reservoir(len(shares), [first * share for share in shares]),
        per_token_ms=Reservoir(len(shares), [per_token * share for share in shares]),
    )


def evidence(canary: ArmEvidence, stable: ArmEvidence, step: int = 0, since: float = 1000.0) -> Evidence:
    return Evidence(step=step, since=since, canary=canary, stable=stable)


def entry(arm: str | None = "new", *, at: float = 2000.0, **changed: Any) -> dict[str, Any]:
    """As the gateway writes it. `at`: Unix seconds."""
    usual: dict[str, Any] = {
        "uid": "u",
        "request_id": "r",
        "at": int(at * 1000),
        "tenant": "acme",
        "key_id": "key",
        "route": "/v1/chat/completions",
        "outcome": "ok",
        "status": 200,
        "model": "boats",
        "completion_tokens": 11,
        "ms": 200.0,
        "ttft_ms": 100.0,
        "stages_ms": {"auth": 1.0, "admission": 40.0},
    }
    return usual | ({} if arm is None else {"arm": arm}) | changed


async def write(redis: Redis, *entries: dict[str, Any], since: int = 1) -> None:
    """Into the ledger, at positions that follow each other. `since`: milliseconds of the first."""
    for number, one in enumerate(entries):
        await redis.xadd(STREAM, {"entry": json.dumps(one)}, id=f"{since + number}-0")
