"""Answers in Valkey, for all gateways."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import msgspec
from prometheus_client import Counter
from redis.exceptions import RedisError

from gateway.cache.answers import Answer, decode_answer, encode_answer
from gateway.cache.keys import Place, prefix_of
from gateway.cache.settings import CacheSettings
from gateway.cache.shelf_scripts import ASKED, FIND, PURGE, RELEASE, STATS, STORE
from gateway.errors import Unavailable
from gateway.valkey.connection import Script, ScriptCall, Valkey, ValkeyAway
from gateway.valkey.outbox import Outbox, Posted
from gateway.valkey.wire import Argument

log = logging.getLogger(__name__)

# Between looks for an answer that another gateway makes: twice as long each time, up to the last.
FIRST_LOOK_S: Final = 0.01
LAST_LOOK_S: Final = 0.1
NOBODY: Final = ""
PATIENCE_S: Final = 5.0
FROM_THE_START: Final = b"0"
NO_QUESTION: Final = ()
# What one look at a tenant's questions brings at most: about 250 KB.
QUESTIONS: Final = 128


@dataclass(frozen=True, slots=True)
class Found:
    """`answer`: None if there is none. `purges`: so many there were, so that what was begun before one is not stored
    after it; None: Valkey is away. `mine`: nobody else is making it.
    """

    answer: Answer | None = None
    purges: bytes | None = None
    mine: bool = True


@dataclass(frozen=True, slots=True)
class Amount:
    answers: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Asked:
    """Questions by the names of their answers. `until`: when the last of them was asked. `more`: there may be."""

    questions: list[tuple[str, Sequence[bytes | None]]]
    until: bytes
    more: bool


class Shelf:
    """`gateway`: names this process, among those who make answers. `outcomes`: a counter by `outcome`, of answers that
    were to be stored. Waits are the wire's own bound, then Valkey counts as away.
    """

    def __init__(
        self, valkey: Valkey, outbox: Outbox, settings: CacheSettings, gateway: str, outcomes: Counter
    ) -> None:
        self._valkey = valkey
        self._outbox = outbox
        self._settings = settings
        self._gateway = gateway
        self._outcomes = cache(outcomes.labels)

    async def find(self, place: Place, *, make: bool) -> Found:
        """`make`: if there is none, others may wait until whoever asks has made it, or `release`s it."""
        who = self._gateway if make else NOBODY
        try:
            stored, purges, mine = await self._valkey.run(_call(FIND, place, who, _ms(self._settings.lease_s)))
        except ValkeyAway:
            return Found()
        except asyncio.CancelledError:
            if make:
                self.release(place)
            raise
        return Found(_decoded(stored), purges, mine == 1)

    async def await_other(self, place: Place, sleep: Callable[[float], Awaitable[None]]) -> Found:
        """Until another gateway has made it or given up, or `wait_s` have passed."""
        waited, pause = 0.0, FIRST_LOOK_S
        found = Found(mine=False)
        while waited < self._settings.wait_s and not found.mine:
            await sleep(pause)
            waited, pause = waited + pause, min(2 * pause, LAST_LOOK_S)
            found = await self.find(place, make=True)
        return found

    def keep(
        self,
        place: Place,
        answer: Answer,
        purges: bytes | None,
        ttl_s: float,
        question: Sequence[Argument] = NO_QUESTION,
    ) -> None:
        """`purges`: so many there were when it was begun. `question`: for those who ask in other words, fields of a
        hash and their values. Never waits.
        """
        encoded = encode_answer(answer)
        if purges is None or len(encoded) > min(self._settings.max_answer_bytes, self._settings.tenant_bytes):
            self._outcomes("unavailable" if purges is None else "too_large").inc()
            self.release(place)
            return
        bounds = (_ms(ttl_s), self._settings.tenant_bytes, self._lifetime_ms, *question)
        call = _call(STORE, place, self._gateway, encoded, purges, *bounds)
        stored = self._outcomes
        self._outbox.post(
            Posted(
                call,
                done=lambda answer: stored("stored" if answer else "purged").inc(),
                failed=stored("unavailable").inc,
            )
        )

    def release(self, place: Place) -> None:
        """There will be no answer: others need not wait. Never waits; if it is lost, the lease ends by itself."""
        call = _call(RELEASE, place, self._gateway)
        self._outbox.post(Posted(call, done=lambda _: None, failed=lambda: None))

    async def asked(self, owner: str, since: bytes) -> Asked:
        """The next questions after `since`. Raises ValkeyAway."""
        found, until = await self._valkey.run(ScriptCall(ASKED, [prefix_of(owner)], [since, QUESTIONS]))
        questions = [(name.decode(), question) for name, question in found]
        return Asked(questions, until, more=len(questions) == QUESTIONS)

    async def purge(self, owner: str, prefix: str) -> int:
        """How many answers went whose names begin so. Raises Unavailable: then some may be left."""
        gone, cursor = 0, FROM_THE_START
        while True:
            call = ScriptCall(PURGE, [prefix_of(owner)], [prefix, cursor, self._lifetime_ms])
            cursor, went = await self._patiently(call)
            gone += int(went)
            if cursor == FROM_THE_START:
                return gone

    async def amount(self, owner: str) -> Amount:
        """Raises Unavailable."""
        return Amount(*await self._patiently(ScriptCall(STATS, [prefix_of(owner)], [])))

    async def _patiently(self, call: ScriptCall) -> Any:
        """For administrators, whom nobody waits behind."""
        try:
            (answer,) = await self._valkey.run_all([call], PATIENCE_S)
        except ValkeyAway as error:
            raise Unavailable("the cache cannot be reached now: Valkey does not answer", retry_after=1.0) from error
        if isinstance(answer, RedisError):
            raise Unavailable("the cache cannot be reached now: Valkey refuses", retry_after=1.0) from answer
        return answer

    @property
    def _lifetime_ms(self) -> int:
        """Twice as long as anything that is stored: what all answers share has more than half of it left."""
        return 2 * _ms(self._settings.max_ttl_s)


def _decoded(stored: bytes | None) -> Answer | None:
    if stored is None:
        return None
    try:
        return decode_answer(stored)
    except msgspec.DecodeError as error:
        log.warning("a stored answer makes no sense and is made again: %s", error)
        return None


def _call(script: Script, place: Place, *args: Argument) -> ScriptCall:
    return ScriptCall(script, [place.prefix], [place.name, *args])


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
