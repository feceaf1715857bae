"""What users think of an answer: a score for a request, in the ledger beside it.

The event in the ledger's stream has a field for each: `feedback` is what was said, `request` what is known of the
request, `before` the score that it replaces, or nothing.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import msgspec
from prometheus_client import Counter
from redis.exceptions import RedisError

from gateway.accounting.index import GENERATION, GENERATIONS, Known, RequestIndex, field_of
from gateway.accounting.stream import STREAM, Scripts
from gateway.core.call import Caller
from gateway.errors import Conflict, NotFound, Unavailable
from gateway.telemetry.metrics import UNKNOWN
from gateway.valkey.connection import Script, ScriptCall, ValkeyAway

log = logging.getLogger(__name__)

TIMEOUT_S: Final = 1.0
# An entry is written a moment after its answer has ended: so long a quick client's feedback waits for it.
PAUSES_S: Final = (0.03, 0.1, 0.3)
MOST_CHANGES: Final = 10
_MISSING, _GIVEN, _TOO_OFTEN, _DONE, _SAME = "missing", "given", "too often", "done", "same"
_DAY_S: Final = 86400

# KEYS: number of the newest generation, stream. ARGV: field, oldest end of a request (ms), score, 1 to replace, event,
# entries to keep. Answers: verdict, what is known of the request.
_GIVE = Script.of(f"""
local number = tonumber(redis.call('GET', KEYS[1]) or '0')
for generation = number, math.max(0, number - {GENERATIONS} + 1), -1 do
  local held = KEYS[1] .. ':' .. generation
  local known = redis.call('HGET', held, ARGV[1])
  if known then
    if cjson.decode(known).at < tonumber(ARGV[2]) then return {{'{_MISSING}', ''}} end
    local times, before = 0, ''
    local given = redis.call('HGET', held, ARGV[1] .. '/score')
    if given then
      times, before = string.match(given, '^(%d+) (.*)$')
      if before == ARGV[3] then return {{'{_SAME}', known}} end
      if ARGV[4] ~= '1' then return {{'{_GIVEN}', known}} end
      if tonumber(times) > {MOST_CHANGES} then return {{'{_TOO_OFTEN}', known}} end
    end
    redis.call('HSET', held, ARGV[1] .. '/score', (times + 1) .. ' ' .. ARGV[3])
    redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[6], '*', 'feedback', ARGV[5], 'request', known, 'before', before)
    return {{before == '' and '{_DONE}' or 'changed', known}}
  end
end
return {{'{_MISSING}', ''}}
""")
_KNOWN = msgspec.json.Decoder(Known)
_ENCODER = msgspec.json.Encoder()


class FeedbackEvent(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`at`: Unix milliseconds. `score`: from 0, bad, to 1, good."""

    at: int
    tenant: str
    key_id: str
    request_id: str
    score: float
    comment: str | None = None


@dataclass(frozen=True, slots=True)
class Opinion:
    request_id: str
    score: float
    comment: str | None = None
    replace: bool = False


class Accepted(NamedTuple):
    """`outcome`: `same` where it had been given before with the same score."""

    model: str
    outcome: Literal["new", "replaced", "same"]


class Feedback:
    """`clock`: Unix seconds."""

    def __init__(
        self,
        valkey: Scripts,
        index: RequestIndex,
        most_entries: int,
        *,
        count: Counter,
        scores: Counter,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._valkey = valkey
        self._index = index
        self._most_entries = most_entries
        self._count = count
        self._scores = scores
        self._clock = clock

    async def give(self, caller: Caller, opinion: Opinion) -> Accepted:
        """Raises NotFound, Conflict when there is another one already, Unavailable."""
        call = self._call(caller, opinion)
        verdict, known = await self._ask(call)
        for pause_s in PAUSES_S:
            if verdict != _MISSING:
                break
            await asyncio.sleep(pause_s)
            verdict, known = await self._ask(call)
        return self._accepted(verdict, known, opinion)

    def _accepted(self, verdict: str, known: bytes, opinion: Opinion) -> Accepted:
        if verdict == _MISSING:
            raise NotFound(
                f"no request of yours has the id {opinion.request_id!r} and was answered in the last "
                f"{self._index.seconds / _DAY_S:g} days: send the x-request-id of an answer",
                param="request_id",
            )
        if verdict == _GIVEN:
            raise Conflict("this request has its feedback already: send replace: true to change it", param="request_id")
        if verdict == _TOO_OFTEN:
            raise Conflict(f"feedback can be changed {MOST_CHANGES} times: it stays as it is", param="request_id")
        request = _KNOWN.decode(known)
        if verdict == _DONE:
            labels = (request.model, request.arm or UNKNOWN)
            self._count.labels(*labels).inc()
            self._scores.labels(*labels).inc(opinion.score)
            return Accepted(request.model, "new")
        return Accepted(request.model, "same" if verdict == _SAME else "replaced")

    async def _ask(self, call: ScriptCall) -> tuple[str, bytes]:
        try:
            (answer,) = await self._valkey.run_all([call], TIMEOUT_S)
        except ValkeyAway as error:
            raise _away() from error
        if isinstance(answer, RedisError):
            log.warning("feedback is refused by Valkey: %s", answer)
            raise _away() from answer
        verdict, known = answer
        return verdict.decode(), known

    def _call(self, caller: Caller, opinion: Opinion) -> ScriptCall:
        now_ms = int(self._clock() * 1000)
        event = FeedbackEvent(
            at=now_ms,
            tenant=caller.tenant,
            key_id=caller.key_id,
            request_id=opinion.request_id,
            score=opinion.score,
            comment=opinion.comment,
        )
        arguments: list[Any] = [
            field_of(caller.tenant, opinion.request_id),
            now_ms - self._index.seconds * 1000,
            repr(opinion.score),
            int(opinion.replace),
            _ENCODER.encode(event),
            self._most_entries,
        ]
        return ScriptCall(_GIVE, [GENERATION, STREAM], arguments)


def _away() -> Unavailable:
    return Unavailable("feedback cannot be written down now: try again", retry_after=1.0)
