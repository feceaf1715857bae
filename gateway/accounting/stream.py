"""The ledger in Valkey: a stream of entries and sums by day, each entry exactly once.

The writers of entries are gateway processes. Each numbers its entries, and Valkey remembers the last number of each
writer: an entry that comes again, because the answer to it was lost, is recognized and skipped. That works only in
order, so a number that follows on none that Valkey has is refused. After the first failure everything goes through the
spool, until that is empty.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from prometheus_client import Counter
from redis.exceptions import RedisError

from gateway.accounting.entries import Entry, Numbered, entry_of
from gateway.accounting.index import GENERATION, NO_INDEX, REMEMBER, RequestIndex
from gateway.accounting.outcome import Outcome
from gateway.accounting.spool import Batch, Spool
from gateway.accounting.sums import HITS, field_prefix, usage_key
from gateway.core.call import Call
from gateway.valkey.connection import Script, ScriptCall, ValkeyAway
from gateway.valkey.outbox import Posted

log = logging.getLogger(__name__)

STREAM = "trireme:{ledger}:entries"
BATCH = 256
REPLAY_TIMEOUT_S = 2.0
RETRY_S = 0.5
# A writer that has been silent for so long is forgotten: should a part of its spool be sent twice after that,
# it would be stored twice.
_WRITER_TTL_S = 30 * 86400
_USAGE_TTL_S = 400 * 86400
_STORED, _KNOWN, _GAP = 1, 0, -1
_ANY = -1

# KEYS: writer, stream, sums of the day, newest generation of the index. ARGV: number, the number that must come before
# it (-1: any), entries to keep, entry, four arguments of `remember`, prefix of the fields of sums, then names of sums
# and what is added to each.
_APPEND = Script.of(f"""{REMEMBER}
local last = tonumber(redis.call('GET', KEYS[1]) or '0')
local number, before = tonumber(ARGV[1]), tonumber(ARGV[2])
if number <= last then return {_KNOWN} end
if before ~= {_ANY} and before ~= last then return {_GAP} end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', 'entry', ARGV[4])
redis.call('SET', KEYS[1], ARGV[1], 'EX', {_WRITER_TTL_S})
if ARGV[5] ~= '' then remember(KEYS[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]) end
for i = 10, #ARGV, 2 do redis.call('HINCRBY', KEYS[3], ARGV[9] .. ARGV[i], ARGV[i + 1]) end
redis.call('EXPIRE', KEYS[3], {_USAGE_TTL_S})
return {_STORED}
""")
_ENCODER = msgspec.json.Encoder()


class Post(Protocol):
    def post(self, posted: Posted) -> None: ...


class Scripts(Protocol):
    async def run_all(self, calls: Sequence[ScriptCall], timeout_s: float) -> list[Any]: ...


class LedgerStream:
    """`outbox` is for entries as they come; `valkey` takes what waited in the spool."""

    def __init__(
        self,
        outbox: Post,
        valkey: Scripts,
        spool: Spool,
        most_entries: int,
        written: Counter,
        *,
        index: RequestIndex = NO_INDEX,
    ) -> None:
        self._outbox = outbox
        self._valkey = valkey
        self._spool = spool
        self._most_entries = most_entries
        self._written = written
        self._index = index
        self._seq = 0
        self._unconfirmed: deque[Numbered] = deque()
        self._spooling = False

    @property
    def state(self) -> str:
        """ "ok", or what is the matter."""
        waiting = self._spool.waiting
        return f"degraded: {waiting} entries wait in the spool" if waiting else "ok"

    def record(self, call: Call, outcome: Outcome, seconds: float) -> None:
        entry = entry_of(call, outcome, seconds)
        if entry is not None:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        """Never raises, never waits."""
        one = Numbered(self._seq + 1, entry)
        if self._spooling:
            # One that finds no room gives its number to the next.
            self._seq += self._spool.put(one)
            return
        self._seq = one.seq
        self._post(one)

    async def run(self) -> None:
        """Until cancelled: empty the spool whenever Valkey answers."""
        while True:
            await self._spool.filled.wait()
            if not await self.replay():
                await asyncio.sleep(RETRY_S)

    async def replay(self) -> bool:
        """Send what waits in the spool. Whether nothing waits any more; after a failure, try again later."""
        while (batch := await self._spool.head(BATCH)) is not None:
            if not await self._send(batch):
                return False
            await self._spool.sent(batch)
            await self._resume()
        return self._spool.waiting == 0

    async def _send(self, batch: Batch) -> bool:
        """Whatever came before the first of them is settled; each of the others must follow on the one before."""
        before = [_ANY, *(one.seq for one in batch.entries)]
        calls = [self._call(batch.writer, one, number) for one, number in zip(batch.entries, before, strict=False)]
        try:
            answers = await self._valkey.run_all(calls, REPLAY_TIMEOUT_S)
        except ValkeyAway:
            return False
        self._written.inc(answers.count(_STORED))
        refused = [answer for answer in answers if isinstance(answer, RedisError)]
        if refused:
            log.warning("the ledger's entries wait: Valkey refuses them: %s", refused[0])
        return all(answer in (_STORED, _KNOWN) for answer in answers)

    async def _resume(self) -> None:
        """Own entries go straight to Valkey again, behind the few that still wait."""
        if not self._spooling:
            return
        rest = await self._spool.take_back()
        if rest is not None:
            self._spooling = False
            for one in rest:
                self._post(one)

    def _post(self, one: Numbered) -> None:
        if self._spooling:  # the one before found no room in the outbox
            self._spool.put(one)
            return
        self._unconfirmed.append(one)
        call = self._call(self._spool.writer, one, before=one.seq - 1)
        self._outbox.post(Posted(call, lambda answer: self._answered(one, answer), lambda: self._failed(one)))

    def _answered(self, one: Numbered, answer: object) -> None:
        if answer == _GAP:
            self._failed(one)
            return
        if answer == _STORED:
            self._written.inc()
        if self._unconfirmed and self._unconfirmed[0] is one:
            self._unconfirmed.popleft()

    def _failed(self, one: Numbered) -> None:
        """From here on everything waits in the spool, also what is on its way: if it arrives, it is known later."""
        if not self._unconfirmed or one.seq < self._unconfirmed[0].seq:
            return
        self._spooling = True
        while self._unconfirmed:
            self._spool.put(self._unconfirmed.popleft())

    def _call(self, writer: str, one: Numbered, before: int) -> ScriptCall:
        entry = one.entry
        sums = {
            "requests": 1,
            "prompt": entry.prompt_tokens,
            "cached": entry.cached_tokens,
            "completion": entry.completion_tokens,
            "price": entry.price,
            "hits": int(entry.cache in HITS),
            "spared": entry.spared_tokens,
            "spared_price": entry.spared_price,
        }
        keys = [f"trireme:{{ledger}}:writer:{writer}", STREAM, usage_key(entry.day), GENERATION]
        added = [part for name, number in sums.items() if number for part in (name, number)]
        text = _ENCODER.encode(entry)
        about = [one.seq, before, self._most_entries, text, *self._index.arguments(entry), field_prefix(entry)]
        return ScriptCall(_APPEND, keys, [*about, *added])
