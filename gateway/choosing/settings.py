"""Settings of the choice among models."""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Annotated

import msgspec

from gateway.choosing.spec import RouterSpec
from gateway.core.settings import Setting


@dataclass(frozen=True, kw_only=True)
class ChoosingSettings:
    routers: Annotated[
        list[RouterSpec] | None,
        Setting(
            "Names that clients may write for a model, and how the model is chosen: [model routing](model-routing.md). "
            "JSON in the variable.",
            env="ROUTERS",
        ),
    ] = None
    conversations: Annotated[
        int,
        msgspec.Meta(ge=1),
        Setting("Conversations whose model is remembered; the longest unused go first.", env="ROUTER_CONVERSATIONS"),
    ] = 10_000
    pattern_ms: Annotated[
        float,
        msgspec.Meta(gt=0),
        Setting("Longest time for one pattern of a rule; then it does not match.", env="ROUTER_PATTERN_MS", unit="ms"),
    ] = 5.0

    def problems(self, generating: Collection[str], other: Collection[str]) -> Iterator[str]:
        """What no single field can tell. `other`: names that are taken too."""
        routers = self.routers or ()
        for name, times in Counter(router.name for router in routers).items():
            if times > 1 or name in generating or name in other:
                yield f"choosing.routers: more than one thing is called {name!r}"
        for router in routers:
            yield from (f"choosing.routers: {problem}" for problem in router.problems(generating))
