"""What Valkey runs for stored answers, in one step each. All keys of an owner lie in one slot, under one prefix:

| key | holds |
|---|---|
| `a:<name>` | an answer |
| `l:<name>` | who is making it, as long as others may wait for that |
| `index` | sorted set: name → when it expires, Unix ms |
| `sizes` | hash: name → bytes, of the answer and its question |
| `asked` | sorted set: name → when its question came, Unix µs, each later than those before |
| `state` | hash: `bytes` of all answers, `purges` so far, when the last question was `asked` |

and, under a prefix of its own, `trireme:question:{cache:<owner>}:<name>`: hash, the question that this answers, for
those who ask in other words.

What expired leaves `index` and `sizes` a little with every answer that comes. Repeating a script changes nothing more.
"""

from typing import Final

from gateway.cache.keys import QUESTIONS
from gateway.valkey.connection import Script

_QUESTION: Final = f"""
local function question_of(name) return '{QUESTIONS}' .. string.sub(KEYS[1], {len("trireme:") + 1}) .. name end
"""

_FORGET: Final = (
    _QUESTION
    + """
local function forget(name)
  redis.call('UNLINK', KEYS[1] .. 'a:' .. name)
  redis.call('ZREM', KEYS[1] .. 'index', name)
  redis.call('UNLINK', question_of(name))
  redis.call('ZREM', KEYS[1] .. 'asked', name)
  local size = redis.call('HGET', KEYS[1] .. 'sizes', name)
  if not size then return 0 end
  redis.call('HDEL', KEYS[1] .. 'sizes', name)
  redis.call('HINCRBY', KEYS[1] .. 'state', 'bytes', -size)
  return tonumber(size)
end
local function purges() return redis.call('HGET', KEYS[1] .. 'state', 'purges') or '0' end
"""
)

FIND: Final = Script.of(
    _FORGET
    + """
-- prefix; name, who asks ('' if it makes nothing for others), lease in ms
-- -> {answer or false, purges, 1: whoever asks may make it, 0: somebody else does}
local answer, lock = redis.call('GET', KEYS[1] .. 'a:' .. ARGV[1]), KEYS[1] .. 'l:' .. ARGV[1]
local mine = answer or ARGV[2] == '' or redis.call('SET', lock, ARGV[2], 'NX', 'PX', ARGV[3])
  or redis.call('GET', lock) == ARGV[2]
return {answer, purges(), mine and 1 or 0}
"""
)

STORE: Final = Script.of(
    _FORGET
    + """
-- prefix; name, who made it, answer, purges when it was begun, ms to keep, bytes for all, ms that what all share
--   is kept (twice as long as any answer; said anew when half is over), fields of its question and their values (none
--   if nobody may ask in other words)
-- -> 1: stored, 0: there was a purge meanwhile
local name, owner, answer, most, size = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[6]), #ARGV[3]
for number = 8, #ARGV do size = size + #ARGV[number] end
local lock = KEYS[1] .. 'l:' .. name
if owner ~= '' and redis.call('GET', lock) == owner then redis.call('DEL', lock) end
if purges() ~= ARGV[4] then return 0 end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local index, sizes, state = KEYS[1] .. 'index', KEYS[1] .. 'sizes', KEYS[1] .. 'state'
if redis.call('HEXISTS', sizes, name) == 1 then forget(name) end
for _, old in ipairs(redis.call('ZRANGEBYSCORE', index, '-inf', now, 'LIMIT', 0, 32)) do forget(old) end
redis.call('SET', KEYS[1] .. 'a:' .. name, answer, 'PX', ARGV[5])
redis.call('ZADD', index, now + ARGV[5], name)
redis.call('HSET', sizes, name, size)
local bytes = redis.call('HINCRBY', state, 'bytes', size)
local question, asked = question_of(name), KEYS[1] .. 'asked'
if #ARGV > 7 then
  local last = tonumber(redis.call('HGET', state, 'asked') or '0')
  local at = string.format('%.0f', math.max(last + 1, time[1] * 1000000 + time[2]))
  redis.call('HSET', state, 'asked', at)
  redis.call('HSET', question, unpack(ARGV, 8))
  redis.call('PEXPIRE', question, ARGV[5])
  redis.call('ZADD', asked, at, name)
end
for _ = 1, 256 do
  if bytes <= most then break end
  local first = redis.call('ZRANGE', index, 0, 0)[1]
  if not first then break end
  bytes = bytes - forget(first)
end
if #ARGV > 7 or redis.call('PTTL', index) < ARGV[7] / 2 then
  for _, key in ipairs({index, sizes, state, asked}) do redis.call('PEXPIRE', key, ARGV[7]) end
end
return 1
"""
)

RELEASE: Final = Script.of("""
-- prefix; name, who was making it -> 1: others need not wait any more
local lock = KEYS[1] .. 'l:' .. ARGV[1]
return redis.call('GET', lock) == ARGV[2] and redis.call('DEL', lock) or 0
""")

PURGE: Final = Script.of(
    _FORGET
    + """
-- prefix; how names begin, cursor (0: from the beginning), ms that nothing outlives
-- -> {next cursor (0: done), answers that went}; what is being made now is not stored
local state = KEYS[1] .. 'state'
if ARGV[2] == '0' then
  redis.call('HINCRBY', state, 'purges', 1)
  redis.call('PEXPIRE', state, ARGV[3])
end
local gone, page = 0, redis.call('ZSCAN', KEYS[1] .. 'index', ARGV[2], 'COUNT', 500)
for number = 1, #page[2], 2 do
  local name = page[2][number]
  if string.sub(name, 1, #ARGV[1]) == ARGV[1] then
    forget(name)
    gone = gone + 1
  end
end
return {page[1], gone}
"""
)

ASKED: Final = Script.of(
    _QUESTION
    + """
-- prefix; asked after that, how many at most
-- -> {{name, {partition, vector, text, until}} of each, when the last of them was asked}
local since, found = ARGV[1], {}
local page = redis.call('ZRANGEBYSCORE', KEYS[1] .. 'asked', '(' .. since, '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])
for number = 1, #page, 2 do
  local question = redis.call('HMGET', question_of(page[number]), 'partition', 'vector', 'text', 'until')
  if question[1] then found[#found + 1] = {page[number], question} end
  since = page[number + 1]
end
return {found, since}
"""
)

STATS: Final = Script.of("""
-- prefix -> {answers, bytes}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local bytes = redis.call('HGET', KEYS[1] .. 'state', 'bytes') or '0'
return {redis.call('ZCOUNT', KEYS[1] .. 'index', now, '+inf'), tonumber(bytes)}
""")
