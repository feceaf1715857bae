"""How the gateway talks to Triton."""

from dataclasses import dataclass
from typing import Annotated

import msgspec

from gateway.core.settings import Setting

Seconds = Annotated[float, msgspec.Meta(gt=0)]
AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]


@dataclass(frozen=True, kw_only=True)
class TritonSettings:
    url: Annotated[str, Setting("Triton's HTTP address.", env="TRITON_URL")] = "http://127.0.0.1:8000"
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
    prompts_at_once: Annotated[
        AtLeastOne, Setting("Prompts of one completion request that run at the same time.", env="PROMPTS_AT_ONCE")
    ] = 8
