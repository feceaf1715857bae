"""How the gateway talks to Triton."""

from dataclasses import dataclass
from typing import Annotated

import msgspec

from gateway.core.settings import Setting

Seconds = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]


@dataclass(frozen=True, kw_only=True)
class TritonSettings:
    url: Annotated[str, Setting("Triton's HTTP address.", env="TRITON_URL")] = "http://127.0.0.1:8000"
    metrics_url: Annotated[
        str | None,
        Setting(
            "Its metrics page, `http://host:8002/metrics`, which tells what waits in it; without one nobody looks.",
            env="TRITON_METRICS_URL",
        ),
    ] = None
    connect_timeout_s: Annotated[
        Seconds, Setting("Longest wait for a connection.", env="TRITON_CONNECT_TIMEOUT_S", unit="s")
    ] = 5.0
    first_byte_timeout_s: Annotated[
        Seconds,
        Setting(
            "Longest wait for the first token, the engine's own queue included.",
            env="TRITON_FIRST_BYTE_TIMEOUT_S",
            unit="s",
        ),
    ] = 300.0
    idle_timeout_s: Annotated[
        Seconds, Setting("Longest silence between two pieces of an answer.", env="TRITON_IDLE_TIMEOUT_S", unit="s")
    ] = 120.0
    abort_timeout_s: Annotated[
        Seconds, Setting("Longest wait for the answer to an abort.", env="TRITON_ABORT_TIMEOUT_S", unit="s")
    ] = 2.0
    abort_attempts: Annotated[AtLeastOne, Setting("How often an abort is tried.", env="TRITON_ABORT_ATTEMPTS")] = 3
    max_event_bytes: Annotated[
        AtLeastOne, Setting("Largest event of a stream that is accepted.", env="TRITON_MAX_EVENT_BYTES", unit="bytes")
    ] = 16 * 1024 * 1024
    plan_timeout_s: Annotated[
        Seconds,
        Setting(
            "Longest wait for how hard a text is and for its embedding; then the request goes on without.",
            env="PLAN_TIMEOUT_S",
            unit="s",
        ),
    ] = 0.3
    plans_at_once: Annotated[
        AtLeastOne, Setting("Such questions that are open at the same time; others go on without.", env="PLANS_AT_ONCE")
    ] = 16
    plan_max_saturation: Annotated[
        Share, Setting("Where every backend is as full as this, none is asked.", env="PLAN_MAX_SATURATION")
    ] = 0.95
    plan_failures: Annotated[
        AtLeastOne, Setting("Failed questions in a row after which none is asked for a while.", env="PLAN_FAILURES")
    ] = 3
    plan_pause_s: Annotated[Seconds, Setting("For how long.", env="PLAN_PAUSE_S", unit="s")] = 5.0
    prompts_at_once: Annotated[
        AtLeastOne, Setting("Prompts of one completion request that run at the same time.", env="PROMPTS_AT_ONCE")
    ] = 8
