"""What is answered from the cache, for how long, and how much of it is kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec

from gateway.core.settings import Setting

# Other words are for those who chose them: no server may decide it for everybody.
UsualMode = Literal["off", "exact"]
Scope = Literal["tenant", "key", "shared"]
Search = Literal["auto", "local", "server"]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Similarity = Annotated[float, msgspec.Meta(gt=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Bytes = Annotated[int, msgspec.Meta(ge=0)]

# As chosen on labelled pairs: docs/benchmarks.md.
THRESHOLDS: Final[Mapping[str, float]] = {"all-minilm-l6-v2": 0.92}


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    mode: Annotated[
        UsualMode,
        Setting(
            "For tenants and keys that say nothing else: `exact` answers a deterministic request that came before from "
            "the cache, `off` none.",
            env="CACHE",
        ),
    ] = "exact"
    scope: Annotated[
        Scope,
        Setting(
            "Who shares answers: the keys of a `tenant`, nobody but the same `key`, or everybody (`shared`), who can "
            "then find out what others asked.",
            env="CACHE_SCOPE",
        ),
    ] = "tenant"
    ttl_s: Annotated[
        Positive, Setting("How long an answer is kept, give or take a tenth.", env="CACHE_TTL_S", unit="s")
    ] = 3600.0
    max_ttl_s: Annotated[
        Positive, Setting("Longest time that `x-cache-ttl` may ask for.", env="CACHE_MAX_TTL_S", unit="s")
    ] = 86400.0
    epoch: Annotated[
        str,
        Setting(
            "Part of every key: answers under another value are never found. Change it when weights were replaced "
            "without a new version.",
            env="CACHE_EPOCH",
        ),
    ] = ""
    max_answer_bytes: Annotated[
        Bytes, Setting("Largest answer that is kept.", env="CACHE_MAX_ANSWER_BYTES", unit="bytes")
    ] = 256 * 1024
    tenant_bytes: Annotated[
        Bytes,
        Setting(
            "What is kept in Valkey for one tenant; beyond it, what would expire first goes.",
            env="CACHE_TENANT_BYTES",
            unit="bytes",
        ),
    ] = 64 * 1024 * 1024
    local_bytes: Annotated[
        Bytes,
        Setting("What this gateway keeps by itself, in front of Valkey.", env="CACHE_LOCAL_BYTES", unit="bytes"),
    ] = 16 * 1024 * 1024
    local_s: Annotated[
        float,
        msgspec.Meta(ge=0),
        Setting(
            "How long it does, and so how long a purge takes until it holds for all gateways; 0: not at all.",
            env="CACHE_LOCAL_S",
            unit="s",
        ),
    ] = 1.0
    lease_s: Annotated[
        Positive,
        Setting(
            "From the beginning of an answer, how long other gateways may wait for it instead of making it themselves.",
            env="CACHE_LEASE_S",
            unit="s",
        ),
    ] = 10.0
    wait_s: Annotated[
        float, msgspec.Meta(ge=0), Setting("How long one request does, at most.", env="CACHE_WAIT_S", unit="s")
    ] = 3.0
    semantic_thresholds: Annotated[
        dict[str, Similarity] | None,
        Setting(
            "How near two questions must be (cosine), for embedding models beside all-minilm-l6-v2 (0.92), or for "
            "that: name → 0 to 1; in the variable as JSON. Questions of a model without one are not compared.",
            env="CACHE_SEMANTIC_THRESHOLDS",
        ),
    ] = None
    semantic_timeout_s: Annotated[
        Positive,
        Setting(
            "Longest wait for the embedding of a question; then it is computed.",
            env="CACHE_SEMANTIC_TIMEOUT_S",
            unit="s",
        ),
    ] = 0.1
    semantic_max_characters: Annotated[
        Count,
        Setting(
            "Longest question that is compared; of longer ones the embedding sees a part only.",
            env="CACHE_SEMANTIC_MAX_CHARACTERS",
            unit="characters",
        ),
    ] = 500
    semantic_entries: Annotated[
        Count, Setting("Questions that this gateway compares with itself, in all.", env="CACHE_SEMANTIC_ENTRIES")
    ] = 50_000
    semantic_tenant_entries: Annotated[Count, Setting("Of one tenant.", env="CACHE_SEMANTIC_TENANT_ENTRIES")] = 10_000
    semantic_search: Annotated[
        Search,
        Setting(
            "Where the nearest questions are found: by the `server`, if it offers vector search (Redis 8, Redis Stack, "
            "valkey-search), else nowhere; in this gateway (`local`); or by the server if it offers it, else here "
            "(`auto`).",
            env="CACHE_SEMANTIC_SEARCH",
        ),
    ] = "auto"
    count_tokens: Annotated[
        bool,
        Setting(
            "Whether tokens of answers from the cache count as used: in limits, quotas, ledger and price.",
            env="CACHE_COUNT_TOKENS",
        ),
    ] = False

    def threshold(self, encoder: str) -> float | None:
        """Of similarity, for the vectors of this model; None: nobody has measured what they mean."""
        return {**THRESHOLDS, **(self.semantic_thresholds or {})}.get(encoder)
