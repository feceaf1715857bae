"""What routers are made of, as the settings write them."""

from collections import Counter
from collections.abc import Collection, Iterator
from itertools import pairwise
from typing import Annotated, Literal

import msgspec
import regex

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern="^[!-~]+$")]
Policy = Literal["quality", "cost", "latency", "share"]


class _Spec(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, forbid_unknown_fields=True):
    """Part of a router; unknown members are errors."""


class CandidateSpec(_Spec, frozen=True):
    """A model that a router may choose.

    `quality`: the chance that it answers well, by score, as points `[score, chance]` with straight lines between them.
    `cost`: per million tokens; None: its price. `tools`: whether it can call tools.
    """

    model: Name
    quality: Annotated[tuple[tuple[Share, Share], ...], msgspec.Meta(min_length=1, max_length=64)]
    cost: NotNegative | None = None
    tools: bool = True


class Rule(_Spec, frozen=True):
    """Decides before anything is asked, where all its conditions hold. `pattern`: a regular expression, found anywhere
    in the last turn of the user. `min_chars`, `max_chars`: of that turn, both included.
    """

    name: Name
    use: Name
    pattern: str | None = None
    min_chars: int | None = None
    max_chars: int | None = None
    tenants: tuple[str, ...] | None = None
    tools: bool | None = None


class RouterSpec(_Spec, frozen=True):
    """A name that clients write for a model, and how the model is chosen: docs/model-routing.md.

    `target`: of the policy `quality`, a chance. `max_cost`: per million tokens, never exceeded. `max_ms`: of a whole
    answer, kept where some candidate is expected to. `share`: of calls that go to the best model. `default`: where no
    score is known; the first candidate when left out. `full`: saturation from which a candidate is avoided. `sticky_s`:
    how long a conversation stays with its model; `sticky_slack`: unless that falls short of what is wanted by more.
    """

    name: Name
    candidates: Annotated[tuple[CandidateSpec, ...], msgspec.Meta(min_length=1, max_length=32)]
    policy: Policy = "quality"
    target: Share = 0.8
    max_cost: Positive | None = None
    max_ms: Positive | None = None
    share: Share = 0.5
    default: Name | None = None
    rules: Annotated[tuple[Rule, ...], msgspec.Meta(max_length=64)] = ()
    full: Share = 0.95
    sticky_s: NotNegative = 600.0
    sticky_slack: Share = 0.1

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(candidate.model for candidate in self.candidates)

    def problems(self, known: Collection[str]) -> Iterator[str]:
        """What is wrong with it, beginning with its name. `known`: the models that generate."""
        for name in [name for name, times in Counter(self.models).items() if times > 1]:
            yield f"{self.name}: {name!r} is a candidate twice"
        for name in self.models:
            if name not in known:
                yield f"{self.name}: there is no model {name!r}; known: {', '.join(known)}"
        used = [("default", self.default or self.models[0]), *((f"rule {rule.name}", rule.use) for rule in self.rules)]
        for where, name in used:
            if name not in self.models:
                yield f"{self.name}: {where}: {name!r} is no candidate of it"
        if self.policy == "cost" and self.max_cost is None:
            yield f"{self.name}: the policy cost needs max_cost"
        if self.policy == "latency" and self.max_ms is None:
            yield f"{self.name}: the policy latency needs max_ms"
        yield from (problem for rule in self.rules if (problem := self._pattern_problem(rule)))
        for candidate in self.candidates:
            if any(left[0] >= right[0] for left, right in pairwise(candidate.quality)):
                yield f"{self.name}: the scores in the quality of {candidate.model} must rise"

    def _pattern_problem(self, rule: Rule) -> str:
        try:
            regex.compile(rule.pattern or "")
        except regex.error as error:
            return f"{self.name}: rule {rule.name}: the pattern cannot be read: {error}"
        return ""
