"""What is written down, where it waits, and what it costs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from gateway.core.settings import Setting

Price = Annotated[float, msgspec.Meta(ge=0, le=1_000_000)]


class ModelPrice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Currency per million tokens. `cached`: None for the price of the prompt."""

    prompt: Price = 0.0
    cached: Price | None = None
    completion: Price = 0.0


@dataclass(frozen=True, kw_only=True)
class AccountingSettings:
    currency: Annotated[
        str,
        msgspec.Meta(pattern="^[A-Z]{3}$"),
        Setting("In which prices, quotas and reports are (ISO 4217); nothing is converted.", env="CURRENCY"),
    ] = "USD"
    prompt_price: Annotated[
        Price, Setting("Of prompt tokens.", env="PROMPT_PRICE", unit="currency per million tokens")
    ] = 0.0
    cached_price: Annotated[
        Price | None,
        Setting(
            "Of prompt tokens that were not computed again; the price of the others when it is left out.",
            env="CACHED_PRICE",
            unit="currency per million tokens",
        ),
    ] = None
    completion_price: Annotated[
        Price, Setting("Of generated tokens.", env="COMPLETION_PRICE", unit="currency per million tokens")
    ] = 0.0
    model_prices: Annotated[
        dict[str, ModelPrice] | None,
        Setting(
            "Prices of models that differ: name → `prompt`, `cached`, `completion`; in the variable as JSON.",
            env="MODEL_PRICES",
            unit="currency per million tokens",
        ),
    ] = None
    stream_entries: Annotated[
        int,
        msgspec.Meta(ge=1000),
        Setting("Entries that Valkey keeps, about: the oldest go. Sums by day are kept apart.", env="LEDGER_ENTRIES"),
    ] = 1_000_000
    feedback_requests: Annotated[
        int,
        msgspec.Meta(ge=0),
        Setting(
            "Requests, about, that Valkey remembers so that feedback can be given: the oldest go; 0: no feedback.",
            env="FEEDBACK_REQUESTS",
        ),
    ] = 1_000_000
    feedback_days: Annotated[
        float,
        msgspec.Meta(gt=0, le=365),
        Setting("How long after a request its feedback is taken.", env="FEEDBACK_DAYS", unit="days"),
    ] = 7.0
    spool_dir: Annotated[
        Path | None,
        Setting(
            "Where entries wait while Valkey is away: it must outlive the process. "
            "When left out, `trireme-spool-<user id>` in the system's directory for temporary files.",
            env="SPOOL_DIR",
        ),
    ] = None
    spool_bytes: Annotated[
        int,
        msgspec.Meta(ge=4096),
        Setting("Most that may wait there; what comes then is lost, and counted.", env="SPOOL_BYTES", unit="bytes"),
    ] = 64 * 1024 * 1024
    top_identities: Annotated[
        int,
        msgspec.Meta(ge=1, le=1000),
        Setting("Tenants, and keys, with metrics of their own; all others share `other`.", env="TOP_IDENTITIES"),
    ] = 100
