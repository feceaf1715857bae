"""Settings of routing, beside those of health."""

from dataclasses import dataclass
from typing import Annotated

import msgspec

from gateway.core.settings import Setting
from gateway.core.snapshot import BackendSpec, RoutingSnapshot
from gateway.routing.health import HealthSettings
from gateway.routing.scoring import SCORERS
from gateway.routing.strategies import DEFAULT_WEIGHTS, STRATEGIES

Seconds = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class RoutingSettings(HealthSettings):
    backends: Annotated[
        list[BackendSpec] | None,
        Setting(
            'Triton servers, as a list (JSON in the variable): `[{"id": "a", "url": "http://a:8000"}]`; '
            "without one, and without discovery, `triton.url` is the only backend.",
            env="BACKENDS",
        ),
    ] = None
    dns_name: Annotated[
        str | None, Setting("Name whose addresses are all backends: a headless service.", env="BACKENDS_DNS_NAME")
    ] = None
    dns_port: Annotated[
        int, msgspec.Meta(ge=1, le=65535), Setting("HTTP port of the backends found so.", env="BACKENDS_DNS_PORT")
    ] = 8000
    dns_metrics_port: Annotated[
        int | None,
        msgspec.Meta(ge=1, le=65535),
        Setting("Port of their metrics pages, which tell what waits in them.", env="BACKENDS_DNS_METRICS_PORT"),
    ] = None
    dns_refresh_s: Annotated[
        Seconds, Setting("How often that name is looked up.", env="BACKENDS_DNS_REFRESH_S", unit="s")
    ] = 5.0
    document_refresh_s: Annotated[
        Seconds,
        Setting(
            "How often the routing document is read again; changes arrive at once without that.",
            env="ROUTING_REFRESH_S",
            unit="s",
        ),
    ] = 5.0
    strategy: Annotated[str, Setting(f"How a backend is chosen: {', '.join(STRATEGIES)}.", env="ROUTING_STRATEGY")] = (
        "prefix"
    )
    weights: Annotated[
        dict[str, NotNegative] | None,
        Setting(
            "What each score counts for the strategy `prefix` (JSON in the variable); "
            f"{', '.join(f'{name} {weight:g}' for name, weight in DEFAULT_WEIGHTS.items())} when not set.",
            env="ROUTING_WEIGHTS",
        ),
    ] = None
    prefix_block_tokens: Annotated[
        AtLeastOne, Setting("Prompts are compared in blocks of so many.", env="PREFIX_BLOCK_TOKENS", unit="tokens")
    ] = 64
    prefix_blocks: Annotated[
        AtLeastOne, Setting("Blocks that are remembered of each backend.", env="PREFIX_BLOCKS", unit="blocks")
    ] = 8192
    prefix_prompt_blocks: Annotated[
        AtLeastOne, Setting("Blocks of one prompt that are compared.", env="PREFIX_PROMPT_BLOCKS", unit="blocks")
    ] = 64
    load_bound: Annotated[
        float,
        msgspec.Meta(ge=1),
        Setting("Affinity gives way where a backend's load is above so many times the mean.", env="LOAD_BOUND"),
    ] = 1.25
    free_load_tokens: Annotated[
        int,
        msgspec.Meta(ge=0),
        Setting("Up to so many tokens in flight it does not.", env="FREE_LOAD_TOKENS", unit="tokens"),
    ] = 2048
    capacity_tokens: Annotated[
        AtLeastOne,
        Setting(
            "What a backend runs at the same time, where neither its entry nor its engine says so.",
            env="BACKEND_CAPACITY_TOKENS",
            unit="tokens",
        ),
    ] = 262_144
    ejection_failures: Annotated[
        AtLeastOne, Setting("Failed requests in a row after which a backend is left out.", env="EJECTION_FAILURES")
    ] = 5
    ejection_s: Annotated[
        Seconds, Setting("For how long, times the number of times in a row.", env="EJECTION_S", unit="s")
    ] = 30.0
    max_ejection_s: Annotated[Seconds, Setting("Longest such time.", env="MAX_EJECTION_S", unit="s")] = 300.0
    max_ejected: Annotated[Share, Setting("Share of a group that may be left out so.", env="MAX_EJECTED")] = 0.5
    panic_below: Annotated[
        Share, Setting("Where less than this share of a group is left, nobody is left out so.", env="PANIC_BELOW")
    ] = 0.5
    slow_start_s: Annotated[
        NotNegative,
        Setting("How long a backend that came back gets less than its share.", env="SLOW_START_S", unit="s"),
    ] = 10.0
    hung_s: Annotated[
        Seconds,
        Setting("A backend that is silent for so long loses what it was given.", env="BACKEND_HUNG_S", unit="s"),
    ] = 10.0
    attempts: Annotated[
        AtLeastOne,
        Setting("Backends that one request is tried on, as long as its client has not seen anything.", env="ATTEMPTS"),
    ] = 2
    retry_share: Annotated[Share, Setting("Retries for each request, in the long run.", env="RETRY_SHARE")] = 0.2
    retry_burst: Annotated[
        NotNegative, Setting("Retries that may come at once beyond that.", env="RETRY_BURST", unit="retries")
    ] = 100.0
    retry_pause_s: Annotated[
        NotNegative, Setting("Longest pause before a retry; the real one is random.", env="RETRY_PAUSE_S", unit="s")
    ] = 0.05

    def problems(self) -> list[str]:
        """What no single field can tell."""
        found = []
        if self.strategy not in STRATEGIES:
            found.append(f"strategy: there is no strategy {self.strategy!r}; known: {', '.join(STRATEGIES)}")
        found += [
            f"weights: there is no score {name!r}; known: {', '.join(SCORERS)}"
            for name in self.weights or {}
            if name not in SCORERS
        ]
        found += [f"backends: {one}" for one in RoutingSnapshot(backends=tuple(self.backends or ())).validate()]
        return found
