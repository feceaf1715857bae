"""One request on its way through the stages."""

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from gateway.core.freshness import ANY_AGE, Freshness
from gateway.core.identity import (
    NO_LIMITS,
    NO_QUOTAS,
    PRIORITY_CLASSES,
    SERVERS_CACHE,
    CachePolicy,
    Limits,
    PriorityClass,
    Quotas,
)
from gateway.core.job import Planned
from gateway.core.limit import TimeLimit
from gateway.core.mirrored import Mirrored
from gateway.core.routed import Routed
from gateway.core.trace import Trace
from python_backends.messages import GrammarOutcome, Timings, Truncation

Task = Literal["generate", "embed"]
# `coalesced`: the answer that somebody else was getting at the same time.
CacheOutcome = Literal["hit-exact", "hit-semantic", "coalesced", "miss", "bypass"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is calling, and what they may. `key_id` is not the secret. `models`: None for all.

    `weight`: the tenant's share, relative to that of others who wait in its class.
    """

    key_id: str
    tenant: str
    scopes: frozenset[str]
    models: frozenset[str] | None = None
    max_priority: PriorityClass = "interactive"
    limits: Limits = NO_LIMITS
    quotas: Quotas = NO_QUOTAS
    tenant_limits: Limits = NO_LIMITS
    tenant_quotas: Quotas = NO_QUOTAS
    weight: float = 1.0
    cache: CachePolicy = SERVERS_CACHE
    tenant_cache: CachePolicy = SERVERS_CACHE

    def may_use(self, model: str) -> bool:
        return self.models is None or model in self.models


@dataclass(frozen=True, slots=True)
class AdapterRef:
    """A LoRA adapter in one revision. `base`: the model that it adapts. `path`: its directory below the adapters' root.

    `checksum` is of its content: what names a revision may be removed and made again, this never means anything else.
    """

    name: str
    revision: str
    base: str
    path: str
    checksum: str


@dataclass(frozen=True, slots=True)
class Model:
    """A model that clients can name. `dimensions`: of its vectors, None if it generates. `created`: Unix seconds.

    `encoder`: its name within the Triton model `embed`, None for the first one there. `truncate`: what becomes of texts
    that are too long, unless the request says otherwise.
    `candidates`: of a router, which is none of them itself. `adapter`: None for a model of its own. `limits`: for each
    tenant, beside those of its own.
    """

    name: str
    task: Task
    max_model_len: int
    created: int
    dimensions: int | None = None
    encoder: str | None = None
    truncate: Truncation = "none"
    adapter: AdapterRef | None = None
    candidates: tuple[str, ...] = ()
    limits: Limits = NO_LIMITS

    @property
    def base(self) -> str:
        """Name of the model whose tokenizer and backends serve it: its own, unless it is an adapter."""
        return self.name if self.adapter is None else self.adapter.base


@dataclass(frozen=True, slots=True)
class Serving:
    """What would answer a call: an arm of its model, and all that tells its answers from another one's."""

    arm: str
    identity: str


@dataclass(slots=True)
class Usage:
    """Exact tokens: `cached` of the prompt were not computed again."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0

    def add(self, prompt: int, completion: int, cached: int) -> None:
        self.prompt += prompt
        self.completion += completion
        self.cached += cached


@dataclass(slots=True, eq=False)
class Call:
    """Identity, time and consumption of one request; each stage writes down what it found out.

    `id` is what client and log see (`x-request-id`) and need not be unique; `uid` is. `started` and the token times are
    monotonic seconds. `size`: bytes of the body. `cost`: tokens that admission holds for it while it runs, of them
    `prompt_cost` for its prompts. `answers`: how many texts are to be generated. `priority_class`: None until admission
    unless the client named one. `queue_position`: place in the queue of its class when it came, 0 if it did not wait.
    `stages`: milliseconds of each stage that has ended. `headers`: what stages add to the response. `session`: calls
    of the same one should share a backend. `user`: of the tenant's, as the client names them. `asked_version`: the only
    one of the model that may answer, None for any; `model_version`: the one that did. `prompt_ids`: of the first
    prompt. `backend`: who answered. `arm`: of the model, the one that got it first, if it asked for no version.
    `experiment`, `unit`: where the call counts, and for whom (a hash). `retries`: attempts that failed and were made
    again. `price`: of what was used, in 10⁻⁹ of the currency. `mirrored`: of a copy, what it was compared with.
    `planned`: what is known of its text; `plan_failed`: it was asked in vain. `routed`: how a router chose the model.
    `freshness`: what the client says of
    answers from before. `cache`: what came of that. `spared`: what the answer would have used if it had not been there
    already; `spared_price`: what that would have cost. `answers_checked`: how those ended that must match a grammar.

    `traceparent`: the client's; `trace`: None unless spans of this call are recorded; `marks`: when each stage ended
    (monotonic seconds); `failed`: backend and error code of each attempt that was made again.

    `heartbeat`: tells the client its place in the queue while it waits; None if it gets its answer in one piece.
    """

    id: str
    uid: str
    route: str
    limit: TimeLimit
    traceparent: str | None = None
    trace: Trace | None = None
    heartbeat: Callable[[int], Awaitable[None]] | None = None
    priority_class: PriorityClass | None = None
    started: float = field(default_factory=time.monotonic)
    created: int = field(default_factory=lambda: int(time.time()))
    size: int = 0
    stream: bool = False
    caller: Caller | None = None
    model: Model | None = None
    asked_version: str | None = None
    model_version: str | None = None
    cost: int = 0
    prompt_cost: int = 0
    answers: int = 0
    queue_position: int = 0
    usage: Usage = field(default_factory=Usage)
    tokens_seen: int = 0
    first_token_at: float | None = None
    last_token_at: float | None = None
    engine: Timings | None = None
    stages: dict[str, float] = field(default_factory=dict)
    marks: list[tuple[str, float]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    session: str | None = None
    user: str | None = None
    prompt_ids: Sequence[int] = ()
    backend: str | None = None
    arm: str | None = None
    experiment: str | None = None
    unit: str | None = None
    planned: Planned | None = None
    plan_failed: bool = False
    routed: Routed | None = None
    retries: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    price: int = 0
    replayed: bool = False
    mirrored: Mirrored | None = None
    freshness: Freshness = ANY_AGE
    cache: CacheOutcome | None = None
    spared: Usage | None = None
    spared_price: int = 0
    closed: bool = False
    answers_checked: dict[GrammarOutcome, int] = field(default_factory=dict)
    _marked: float = 0.0

    def __post_init__(self) -> None:
        self._marked = self.started

    @property
    def engine_id(self) -> str:
        """Names this call in the engine. Never an id of the client's alone: an abort ends all that carry it."""
        return self.id if self.uid in self.id else f"{self.id}.{self.uid}"

    @property
    def context(self) -> str | None:
        """The `traceparent` for the backend of the present attempt."""
        return self.traceparent if self.trace is None else self.trace.traceparent(self.retries)

    @property
    def priority(self) -> int:
        """For the engine: 0 is the most urgent."""
        return PRIORITY_CLASSES.index(self.priority_class or "standard")

    @property
    def told_usage(self) -> Usage:
        """What the client reads: of its answer, wherever that came from."""
        return self.usage if self.spared is None else self.spared

    def carrier(self) -> "Call":
        """The same work, for an answer that others may wait for too: with its own time limit and consumption.

        It takes this one's place in the engine. What stages it passes, and the headers that they add, are this one's.
        """
        other = replace(self, limit=TimeLimit(self.limit.remaining), usage=Usage())
        other._marked = self._marked
        return other

    def mark(self, stage: str) -> None:
        """`stage` ends here: it took the time since the last mark."""
        now = time.monotonic()
        self.stages[stage] = (now - self._marked) * 1000
        self.marks.append((stage, now))
        self._marked = now

    def saw_answer(self, outcome: GrammarOutcome) -> None:
        """One that must match a grammar has ended."""
        self.answers_checked[outcome] = self.answers_checked.get(outcome, 0) + 1

    def saw_tokens(self, number: int) -> None:
        """Tokens arrived from the engine."""
        now = time.monotonic()
        if self.first_token_at is None:
            self.first_token_at = now
            self.mark("first_token")
        self.last_token_at = now
        self.tokens_seen += number


def served_by(calls: Iterable[Call]) -> float | None:
    """When the last of these calls got a token (monotonic seconds), or None if none of them did."""
    return max((call.last_token_at for call in calls if call.last_token_at is not None), default=None)
