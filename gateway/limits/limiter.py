"""Reserve what a call is expected to use, and settle what it used."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from gateway.core.call import Call, Model
from gateway.core.identity import NO_LIMITS
from gateway.errors import LimitsUnavailable, Overloaded, QueueTimeout, Unavailable
from gateway.limits.answers import error_of, headers_of
from gateway.limits.local import Local
from gateway.limits.settings import LimitSettings
from gateway.limits.shared import Shared
from gateway.limits.terms import Ask, Scope, Settlement, Verdict, scopes_of, scopes_of_model
from gateway.telemetry.metrics import Metrics
from gateway.valkey.connection import Valkey, ValkeyAway
from gateway.valkey.outbox import Outbox

log = logging.getLogger(__name__)

Price = Callable[[Model, int, int, int], int]
Learn = Callable[[str, str, int], None]
RETRY_S: Final = 1.0
# With these we said no before the engine began: then the call is no request either.
_REFUSALS: Final = (Overloaded, QueueTimeout, Unavailable)


@dataclass(frozen=True, slots=True)
class _Held:
    """`local`: also held in this process."""

    ask: Ask
    local: bool


class Limiter:
    """Calls without limits pass at once.

    `price`: of the model, prompt, completion and cached tokens → 10⁻⁹ of the currency. `learn`: told tenant, model
    and tokens of an answer for every call that was answered. `clock`: Unix seconds, asked only while Valkey is away.
    """

    def __init__(
        self,
        valkey: Valkey,
        outbox: Outbox,
        settings: LimitSettings,
        metrics: Metrics,
        *,
        price: Price,
        learn: Learn,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._shared = Shared(valkey, outbox, settings)
        self._local = Local(settings.replicas, clock)
        self._policy = settings.policy
        self._heartbeat_s = settings.heartbeat_s
        self._price = price
        self._learn = learn
        self._degraded = False
        self._gauge = metrics.limits_degraded
        self._refused = metrics.limits_refused.labels
        self._seconds = metrics.limits_seconds.observe

    @property
    def state(self) -> str:
        """For readiness: `ok`, or `degraded: …` while decisions are made without Valkey."""
        return f"degraded: Valkey is away, the policy is {self._policy}" if self._degraded else "ok"

    @asynccontextmanager
    async def hold(self, call: Call) -> AsyncIterator[None]:
        """Raises ExceedsLimit, QuotaExceeded, RateLimited, LimitsUnavailable; then nothing is consumed."""
        held = await self._reserve(call)
        try:
            yield
        except BaseException as error:  # cancellations too: everything is settled, however the call ends
            self._settle(call, held, refused=isinstance(error, _REFUSALS) and not call.tokens_seen)
            raise
        self._settle(call, held, refused=False)
        self._learn_from(call)

    def asks(self, call: Call) -> bool:
        """Whether `hold` has anything to reserve, for which it asks Valkey."""
        return bool(_scopes(call))

    async def heartbeat(self) -> None:
        """One sign of life of everything that is held; a task calls it again and again."""
        await asyncio.sleep(self._heartbeat_s)
        await self.beat()

    async def beat(self) -> None:
        await self._shared.beat()
        if self._degraded and await self._shared.probe():
            self._decided(shared=True)

    async def _reserve(self, call: Call) -> _Held | None:
        ask = self._ask(call)
        if ask is None:
            return None
        started = time.perf_counter()
        try:
            verdict, local = await self._decide(ask)
        except BaseException:  # cancelled, or nobody is let in: what may have been reserved is given back
            self._shared.settle(Settlement(ask, 0, 0, refund_request=True))
            raise
        self._seconds(time.perf_counter() - started)
        if verdict is not None:
            call.headers |= headers_of(ask, verdict)
            self._raise_if_refused(ask, verdict, local=local)
        return _Held(ask, local)

    def _ask(self, call: Call) -> Ask | None:
        scopes = _scopes(call)
        if not scopes or call.caller is None or call.model is None:
            return None
        price = self._price(call.model, call.prompt_cost, call.cost - call.prompt_cost, 0)
        return Ask(call.uid, call.caller.tenant, scopes, call.cost, price)

    async def _decide(self, ask: Ask) -> tuple[Verdict | None, bool]:
        """By Valkey, or by the policy (the second is true where this process holds it); None: let in unseen."""
        try:
            verdict = await self._shared.reserve(ask)
        except ValkeyAway:
            self._decided(shared=False)
            if self._policy == "closed":
                raise LimitsUnavailable("limits cannot be checked now: try again", retry_after=RETRY_S) from None
            return (None, False) if self._policy == "open" else (self._local.reserve(ask), True)
        self._decided(shared=True)
        return verdict, False

    def _raise_if_refused(self, ask: Ask, verdict: Verdict, *, local: bool) -> None:
        refusal = verdict.refusal
        if refusal is None:
            return
        if local:
            self._shared.settle(Settlement(ask, 0, 0, refund_request=True))
        self._refused(refusal.limit, ask.scopes[refusal.scope].name).inc()
        raise error_of(ask, refusal, verdict.now)

    def _settle(self, call: Call, held: _Held | None, *, refused: bool) -> None:
        """By the usage that the ledger writes down. Never waits: it also runs while a request is being cancelled."""
        if held is None or call.model is None:
            return
        used = call.usage
        price = self._price(call.model, used.prompt, used.completion, used.cached)
        done = Settlement(held.ask, used.prompt + used.completion, price, refund_request=refused)
        self._shared.settle(done)
        if held.local:
            self._local.settle(done)

    def _learn_from(self, call: Call) -> None:
        """Embeddings, and prompts that were only scored, have no answer."""
        if call.caller is not None and call.model is not None and call.answers and call.usage.completion:
            self._learn(call.caller.tenant, call.model.name, call.usage.completion // call.answers)

    def _decided(self, *, shared: bool) -> None:
        if self._degraded == shared:
            self._degraded = not shared
            self._gauge.set(int(self._degraded))
            log.warning("limits: %s", "shared with other gateways again" if shared else self.state)


def _scopes(call: Call) -> tuple[Scope, ...]:
    if call.caller is None or call.model is None:
        return ()
    scopes = scopes_of(call.caller)
    if call.model.limits is not NO_LIMITS:
        scopes = (*scopes, *scopes_of_model(call.caller.tenant, call.model))
    return scopes
