"""What happens when Valkey is away, and how long a reservation outlives its gateway."""

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from gateway.core.settings import Setting

Policy = Literal["local", "open", "closed"]
Positive = Annotated[float, msgspec.Meta(gt=0)]


@dataclass(frozen=True, kw_only=True)
class LimitSettings:
    policy: Annotated[
        Policy,
        Setting(
            "While Valkey is away: `local` limits in this process, at limit ÷ `replicas`; `open` lets everybody in, "
            "`closed` nobody who has limits (503).",
            env="LIMITS_POLICY",
        ),
    ] = "local"
    replicas: Annotated[
        int,
        msgspec.Meta(ge=1),
        Setting("Gateways that share the limits; only `local` asks for it.", env="LIMITS_REPLICAS"),
    ] = 1
    lease_ttl_s: Annotated[
        Positive,
        Setting(
            "After so long without a sign of life a request counts as ended, and what it reserved is given back.",
            env="LIMITS_LEASE_TTL_S",
            unit="s",
        ),
    ] = 30.0
    heartbeat_s: Annotated[
        Positive, Setting("How often running requests give a sign of life.", env="LIMITS_HEARTBEAT_S", unit="s")
    ] = 10.0
