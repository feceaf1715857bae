"""Settings of admission."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from gateway.core.identity import PriorityClass
from gateway.core.settings import Setting

AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]
NotNegative = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegativeSeconds = Annotated[float, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
LimitName = Literal["fixed", "adaptive"]


@dataclass(frozen=True, slots=True)
class ClassTerms:
    """What one class is promised, in seconds. `shed_at` (a pressure), `ceiling`: see gateway.admission.scheduler."""

    weight: float
    timeout_s: float
    ageing_s: float
    shed_at: float
    ceiling: float = 1.0


@dataclass(frozen=True, kw_only=True)
class AdmissionSettings:
    max_running: Annotated[
        AtLeastOne, Setting("Requests that run at the same time.", env="MAX_RUNNING", unit="requests")
    ] = 64
    max_running_tokens: Annotated[
        AtLeastOne,
        Setting("Prompt and expected answer tokens of the requests that run.", env="MAX_RUNNING_TOKENS", unit="tokens"),
    ] = 262_144
    max_queued: Annotated[
        NotNegative, Setting("Requests of one class that wait for their turn.", env="MAX_QUEUED", unit="requests")
    ] = 128
    max_queued_tokens: Annotated[
        NotNegative, Setting("Tokens of the requests of one class that wait.", env="MAX_QUEUED_TOKENS", unit="tokens")
    ] = 524_288
    default_class: Annotated[PriorityClass, Setting("Class of a request that names none.", env="DEFAULT_CLASS")] = (
        "standard"
    )
    interactive_weight: Annotated[
        Positive, Setting("Share of the class `interactive` while others wait too.", env="INTERACTIVE_WEIGHT")
    ] = 8.0
    standard_weight: Annotated[
        Positive, Setting("Share of the class `standard` while others wait too.", env="STANDARD_WEIGHT")
    ] = 4.0
    batch_weight: Annotated[
        Positive, Setting("Share of the class `batch` while others wait too.", env="BATCH_WEIGHT")
    ] = 1.0
    interactive_timeout_s: Annotated[
        Positive,
        Setting("Longest wait of an interactive request; then 408.", env="INTERACTIVE_QUEUE_TIMEOUT_S", unit="s"),
    ] = 30.0
    standard_timeout_s: Annotated[
        Positive, Setting("Longest wait of a standard request; then 408.", env="STANDARD_QUEUE_TIMEOUT_S", unit="s")
    ] = 60.0
    batch_timeout_s: Annotated[
        Positive, Setting("Longest wait of a batch request; then 408.", env="BATCH_QUEUE_TIMEOUT_S", unit="s")
    ] = 300.0
    interactive_ageing_s: Annotated[
        Positive,
        Setting(
            "How much later than an interactive request one of its tenant may come and still pass it by its deadline.",
            env="INTERACTIVE_AGEING_S",
            unit="s",
        ),
    ] = 5.0
    standard_ageing_s: Annotated[
        Positive, Setting("The same for a standard request.", env="STANDARD_AGEING_S", unit="s")
    ] = 30.0
    batch_ageing_s: Annotated[Positive, Setting("The same for a batch request.", env="BATCH_AGEING_S", unit="s")] = (
        120.0
    )
    interactive_shed_at: Annotated[
        Positive, Setting("Pressure from which on interactive requests get 503 at once.", env="INTERACTIVE_SHED_AT")
    ] = 1.0
    standard_shed_at: Annotated[
        Positive, Setting("Pressure from which on standard requests get 503 at once.", env="STANDARD_SHED_AT")
    ] = 0.95
    batch_shed_at: Annotated[
        Positive, Setting("Pressure from which on batch requests get 503 at once.", env="BATCH_SHED_AT")
    ] = 0.8
    standard_ceiling: Annotated[
        Share,
        Setting("Part of the capacity that standard and batch requests may hold together.", env="STANDARD_CEILING"),
    ] = 0.95
    batch_ceiling: Annotated[
        Share,
        Setting(
            "Part of the capacity that batch requests may hold: the rest is there for those whom the engine prefers.",
            env="BATCH_CEILING",
        ),
    ] = 0.8
    quantum_tokens: Annotated[
        AtLeastOne,
        Setting("Tokens that a class gets in each round, times its weight.", env="QUANTUM_TOKENS", unit="tokens"),
    ] = 512
    overtake_tokens: Annotated[
        NotNegative,
        Setting(
            "Tokens of smaller requests that may start before one that has its turn and does not fit yet.",
            env="OVERTAKE_TOKENS",
            unit="tokens",
        ),
    ] = 16_384
    prompt_weight: Annotated[
        Positive, Setting("What a tenant is charged for a prompt token that was computed.", env="PROMPT_WEIGHT")
    ] = 1.0
    output_weight: Annotated[
        Positive, Setting("What a tenant is charged for a token of an answer.", env="OUTPUT_WEIGHT")
    ] = 2.0
    min_retry_after_s: Annotated[
        Positive, Setting("Least that `retry-after` says.", env="MIN_RETRY_AFTER_S", unit="s")
    ] = 1.0
    max_retry_after_s: Annotated[
        Positive, Setting("Most that `retry-after` says.", env="MAX_RETRY_AFTER_S", unit="s")
    ] = 60.0
    limit: Annotated[
        LimitName,
        Setting(
            "`fixed`: `max_running_tokens` may always run. `adaptive`: at most that, fewer while answers slow down.",
            env="ADMISSION_LIMIT",
        ),
    ] = "fixed"
    min_running_tokens: Annotated[
        AtLeastOne,
        Setting("What the adaptive limit never goes below.", env="MIN_RUNNING_TOKENS", unit="tokens"),
    ] = 4_096
    sharing_interval_s: Annotated[
        Positive,
        Setting("How often gateways tell each other what they served.", env="SHARING_INTERVAL_S", unit="s"),
    ] = 0.25
    heartbeat_s: Annotated[
        NotNegativeSeconds,
        Setting(
            "How often a streamed request that waits for its turn is sent a comment, so that proxies keep its "
            "connection; 0: never.",
            env="HEARTBEAT_S",
            unit="s",
        ),
    ] = 0.0
    heartbeat_class: Annotated[
        PriorityClass,
        Setting("The most urgent class that is sent them; the less urgent ones are too.", env="HEARTBEAT_CLASS"),
    ] = "batch"

    def terms(self) -> Mapping[PriorityClass, ClassTerms]:
        """By class, the most urgent first."""
        return {
            "interactive": ClassTerms(
                self.interactive_weight, self.interactive_timeout_s, self.interactive_ageing_s, self.interactive_shed_at
            ),
            "standard": ClassTerms(
                self.standard_weight,
                self.standard_timeout_s,
                self.standard_ageing_s,
                self.standard_shed_at,
                self.standard_ceiling,
            ),
            "batch": ClassTerms(
                self.batch_weight, self.batch_timeout_s, self.batch_ageing_s, self.batch_shed_at, self.batch_ceiling
            ),
        }
