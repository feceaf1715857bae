"""Reservations that all gateways share, in Valkey."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from gateway.limits.scripts import BEAT, limits_call, verdict_of
from gateway.limits.settings import LimitSettings
from gateway.limits.terms import Ask, Settlement, Verdict
from gateway.valkey.connection import ScriptCall, Valkey, ValkeyAway
from gateway.valkey.outbox import Outbox, Posted

# So many settlements each reservation takes along; and so many one that would be refused.
FEW = 2
MOST_CARRIED = 64
MOST_FAILED = 20_000
BEATS_A_CALL = 500
BEAT_TIMEOUT_S = 1.0


class Shared:
    """`reserve` waits for Valkey; `settle` never waits.

    A settlement is on its way for some milliseconds. A client which sends its next request after reading an answer
    finds everything given back all the same: whoever asks next for the same tenant takes a few settlements along; where
    a crowd has many on their way, only who would be refused without them does, since each is work for Valkey.

    A settlement that failed is sent again with the next heartbeats, until its lease has ended by itself; so is, once,
    one whose reservation had no answer, and which it may have overtaken. `clock`: monotonic seconds.
    """

    def __init__(
        self, valkey: Valkey, outbox: Outbox, settings: LimitSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._valkey = valkey
        self._outbox = outbox
        self._ttl_s = settings.lease_ttl_s
        self._ttl_ms = round(settings.lease_ttl_s * 1000)
        self._clock = clock
        self._held: dict[str, Ask] = {}
        self._doubtful: set[str] = set()
        self._unconfirmed: defaultdict[str, dict[str, Settlement]] = defaultdict(dict)
        self._failed: dict[str, tuple[Settlement, float]] = {}

    async def reserve(self, ask: Ask) -> Verdict:
        """Raises ValkeyAway: then, or when cancelled, it may be reserved or not, and must be settled as if it were."""
        self._held[ask.uid] = ask
        waiting = self._unconfirmed.get(ask.tenant, {})
        verdict = await self._ask(ask, list(waiting.values()) if len(waiting) <= FEW else [])
        if verdict.refusal is not None and verdict.refusal.kind != "exceeds":
            waiting = self._unconfirmed.get(ask.tenant, {})
            if waiting:
                verdict = await self._ask(ask, list(islice(waiting.values(), MOST_CARRIED)))
        if verdict.refusal is not None:
            del self._held[ask.uid]
        return verdict

    def settle(self, done: Settlement) -> None:
        uid, until = done.ask.uid, self._clock() + self._ttl_s
        del self._held[uid]
        if uid in self._doubtful:
            self._doubtful.remove(uid)
            self._keep(done, until)
        self._unconfirmed[done.ask.tenant][uid] = done
        self._post(done, until, lambda: uid in self._unconfirmed.get(done.ask.tenant, {}))

    async def _ask(self, ask: Ask, carried: Sequence[Settlement]) -> Verdict:
        """Until there is an answer, nobody knows whether it is reserved."""
        self._doubtful.add(ask.uid)
        verdict = verdict_of(await self._valkey.run(limits_call(ask, carried, self._ttl_ms)))
        self._doubtful.remove(ask.uid)
        for one in carried:
            self._confirm(one)
        return verdict

    async def beat(self) -> None:
        """A sign of life for everything that is held, and another try for what could not be sent. Never raises."""
        again, self._failed = list(self._failed.values()), {}
        for done, until in again:
            self._post(done, until, lambda: True)
        calls = list(self._beats())
        if not calls:
            return
        try:
            await self._valkey.run_all(calls, BEAT_TIMEOUT_S)
        except ValkeyAway:
            return  # a lease survives two beats that did not come

    async def probe(self) -> bool:
        """Whether Valkey answers."""
        try:
            await self._valkey.run(ScriptCall(BEAT, ["trireme:limits:probe"], [self._ttl_ms]))
        except ValkeyAway:
            return False
        return True

    def _beats(self) -> Iterator[ScriptCall]:
        uids: defaultdict[str, list[str]] = defaultdict(list)
        for uid, ask in self._held.items():
            for scope in ask.scopes:
                uids[scope.keys[1]].append(uid)
        for key, found in uids.items():
            for start in range(0, len(found), BEATS_A_CALL):
                yield ScriptCall(BEAT, [key], [self._ttl_ms, *found[start : start + BEATS_A_CALL]])

    def _post(self, done: Settlement, until: float, needed: Callable[[], bool]) -> None:
        """Needless when a reservation has taken it along in the meantime."""
        call = limits_call(None, [done], self._ttl_ms)
        self._outbox.post(Posted(call, lambda _: self._confirm(done), lambda: self._keep(done, until), needed))

    def _keep(self, done: Settlement, until: float) -> None:
        if self._clock() < until and len(self._failed) < MOST_FAILED:
            self._failed[done.ask.uid] = (done, until)
        else:
            self._confirm(done)

    def _confirm(self, done: Settlement) -> None:
        waiting = self._unconfirmed.get(done.ask.tenant)
        if waiting is None:
            return
        waiting.pop(done.ask.uid, None)
        if not waiting:
            del self._unconfirmed[done.ask.tenant]
