"""One request in the ledger."""

import time
from datetime import UTC, date, datetime
from typing import Final, Literal

import msgspec

from gateway.accounting.outcome import Outcome, OutcomeName
from gateway.core.call import Call
from gateway.core.mirrored import Mirrored

Kind = Literal["request", "mirror"]
# Requests that use the engine; all others are in the log only.
ROUTES: Final = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank"})


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`at`: its end, Unix milliseconds. `cached_tokens` are part of `prompt_tokens`. `price`: 10⁻⁹ of the currency.

    `arm`: of the model, the one that got it first. `experiment`, `unit`: in which the call counts, and for whom.
    `retries`: attempts that failed and were made again. `kind`: `mirror` for a copy that nobody asked for and nobody
    pays; `mirrored`: what it was compared with.
    `router`: what the client named, if that chose the model; `router_reason`, `router_score`: how.
    `replayed`: the answer was one from before (`Idempotency-Key`), and nothing was used. `cache`: what it did; where it
    had the answer, `spared_tokens` is what that would have used, and `spared_price` what that would have cost.
    `queue_position`: in its class when it came, 0 if it did not wait; `stages_ms.admission` is how long it waited.
    `answers_checked`: how those ended that must match a grammar, and how many of them.
    `ms` and `ttft_ms` count from the request's arrival; `stages_ms` are the names of `server-timing`.
    """

    uid: str
    request_id: str
    at: int
    tenant: str
    key_id: str
    route: str
    outcome: OutcomeName
    status: int
    kind: Kind = "request"
    code: str | None = None
    model: str | None = None
    model_version: str | None = None
    adapter_revision: str | None = None
    backend: str | None = None
    arm: str | None = None
    experiment: str | None = None
    unit: str | None = None
    router: str | None = None
    router_reason: str | None = None
    router_score: float | None = None
    retries: int = 0
    stream: bool = False
    replayed: bool = False
    cache: str | None = None
    spared_tokens: int = 0
    spared_price: int = 0
    priority: str | None = None
    queue_position: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    price: int = 0
    ms: float = 0.0
    ttft_ms: float | None = None
    stages_ms: dict[str, float] = {}
    answers_checked: dict[str, int] = {}
    mirrored: Mirrored | None = None

    @property
    def day(self) -> date:
        """In UTC."""
        return datetime.fromtimestamp(self.at / 1000, UTC).date()


class Numbered(msgspec.Struct, frozen=True):
    """`seq`: counts one writer's entries from 1, in the order in which they are stored."""

    seq: int
    entry: Entry


def entry_of(call: Call, outcome: Outcome, seconds: float) -> Entry | None:
    """None for what is not in the ledger: other addresses, and callers that nobody knows."""
    caller, usage = call.caller, call.usage
    if caller is None or call.route not in ROUTES:
        return None
    first = call.first_token_at
    return Entry(
        uid=call.uid,
        request_id=call.id,
        at=int(time.time() * 1000),
        tenant=caller.tenant,
        key_id=caller.key_id,
        route=call.route,
        outcome=outcome.name,
        status=outcome.status,
        kind="request" if call.mirrored is None else "mirror",
        code=outcome.code,
        model=call.model.name if call.model else None,
        model_version=call.model_version,
        adapter_revision=call.model.adapter.revision if call.model and call.model.adapter else None,
        backend=call.backend,
        arm=call.arm,
        experiment=call.experiment,
        unit=call.unit,
        router=call.routed.router if call.routed else None,
        router_reason=call.routed.reason if call.routed else None,
        router_score=call.routed.score if call.routed else None,
        retries=call.retries,
        stream=call.stream,
        replayed=call.replayed,
        cache=call.cache,
        spared_tokens=0 if call.spared is None else call.spared.prompt + call.spared.completion,
        spared_price=call.spared_price,
        priority=call.priority_class,
        queue_position=call.queue_position,
        prompt_tokens=usage.prompt,
        cached_tokens=usage.cached,
        completion_tokens=usage.completion,
        price=call.price,
        answers_checked=dict(call.answers_checked.items()),
        ms=round(seconds * 1000, 3),
        ttft_ms=None if first is None else round((first - call.started) * 1000, 3),
        stages_ms={stage: round(milliseconds, 3) for stage, milliseconds in call.stages.items()},
        mirrored=call.mirrored,
    )
