"""Settings of keys: where they lie, how they are hashed, and what strangers may try."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec

from gateway.core.settings import Setting

Positive = Annotated[float, msgspec.Meta(gt=0)]


@dataclass(frozen=True, kw_only=True)
class AuthSettings:
    valkey_url: Annotated[str, Setting("Where Valkey (or Redis) keeps tenants and API keys.", env="VALKEY_URL")] = (
        "redis://127.0.0.1:6379/0"
    )
    valkey_cluster: Annotated[
        bool, Setting("Whether that is a cluster; then the address may be any of its nodes.", env="VALKEY_CLUSTER")
    ] = False
    pepper_file: Annotated[
        Path | None,
        Setting("File with the secret, in hexadecimal, under which keys are hashed.", env="PEPPER_FILE"),
    ] = None
    pepper: Annotated[
        str | None,
        Setting(
            "That secret itself, instead of a file: one of both must be set. Never in the YAML file.",
            env="PEPPER",
            secret=True,
        ),
    ] = field(default=None, repr=False)
    valkey_timeout_s: Annotated[
        Positive, Setting("Longest wait for one answer of Valkey.", env="VALKEY_TIMEOUT_S", unit="s")
    ] = 0.5
    valkey_connections: Annotated[
        int, msgspec.Meta(ge=2), Setting("Most connections to Valkey.", env="VALKEY_CONNECTIONS")
    ] = 16
    snapshot_ttl_s: Annotated[
        Positive,
        Setting(
            "How often all keys are read again, and the times of their last use written; changes arrive at once "
            "without that.",
            env="KEY_SNAPSHOT_TTL_S",
            unit="s",
        ),
    ] = 10.0
    failed_attempts_per_minute: Annotated[
        int,
        msgspec.Meta(ge=0),
        Setting(
            "Wrong keys that one address may send; then they get 429. Keys that this gateway knows go on working. "
            "0: no limit.",
            env="FAILED_ATTEMPTS_PER_MINUTE",
        ),
    ] = 0
