"""The algorithm of `buckets.py` in Lua, in one script: settle what ended, then check everything, then take everything.

Each scope has three keys (`Scope.keys`), which all lie in the tenant's slot; its state is one line of numbers, as
`STATE` reads it, `-` for a bucket that there is not. Time is the server's. Arguments: now (0:
ask the server; tests say otherwise) · lease in ms · how many of the scopes the call asks · its uid, tokens and cost ·
number of scopes · their numbers (`Scope.numbers`) · of each settlement its uid, tokens, cost, refund of the request,
and the positions of its scopes (0: none).
"""

from collections.abc import Sequence
from typing import Any, Final

from gateway.limits.terms import Ask, Level, Limit, Refusal, Scope, Settlement, Verdict
from gateway.valkey.connection import Script, ScriptCall
from gateway.valkey.wire import Argument

# A month's count must outlive the month; nothing else lives longer.
LIFETIME_S: Final = 32 * 86_400
MOST_SCOPES: Final = 2

LIMITS: Final = Script.of(
    f"local LIFETIME_S = {LIFETIME_S}\n"
    + r"""
local MINUTE_MS, DAY_MS, SCOPE_NUMBERS, SETTLEMENT_NUMBERS, RECLAIM_AT_ONCE = 60000, 86400000, 9, 6, 200
local STATE = '^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+)$'
local QUOTAS = {'tokens_per_day', 'tokens_per_month', 'cost_per_day', 'cost_per_month'}

local now, ttl = tonumber(ARGV[1]), tonumber(ARGV[2])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local asked, uid = tonumber(ARGV[3]), ARGV[4]
local tokens, cost, known = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])

-- The civil calendar, counted from 1 March of the year 0 in eras of 400 years.
local function month_of(day)
  local from_march = day + 719468
  local era = math.floor(from_march / 146097)
  local of_era = from_march - era * 146097
  local leaps = math.floor(of_era / 1460) - math.floor(of_era / 36524) + math.floor(of_era / 146096)
  local year = math.floor((of_era - leaps) / 365)
  local of_year = of_era - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  local month = math.floor((5 * of_year + 2) / 153)
  return (era * 400 + year) * 12 + month + 2
end
local today = math.floor(now / DAY_MS)
local this_month = month_of(today)

local function refilled(level, elapsed, rate, burst)
  if rate == 0 then return nil end
  local capacity = burst * MINUTE_MS
  if not level then return capacity end
  return math.min(capacity, level + elapsed * rate)
end

local function load_scope(number)
  local first = 7 + (number - 1) * SCOPE_NUMBERS
  local scope = {
    state = KEYS[3 * number - 2], active = KEYS[3 * number - 1], reserved = KEYS[3 * number],
    request_rate = tonumber(ARGV[first + 1]), request_burst = tonumber(ARGV[first + 2]),
    token_rate = tonumber(ARGV[first + 3]), token_burst = tonumber(ARGV[first + 4]),
    concurrent = tonumber(ARGV[first + 5]), used = {}, bound = {},
  }
  local at, requests, tokens_left, day, day_tokens, day_cost, month, month_tokens, month_cost =
    string.match(redis.call('GET', scope.state) or '', STATE)
  local elapsed = math.max(0, now - (tonumber(at) or now))
  scope.requests = refilled(tonumber(requests), elapsed, scope.request_rate, scope.request_burst)
  scope.tokens = refilled(tonumber(tokens_left), elapsed, scope.token_rate, scope.token_burst)
  scope.new_day = tonumber(day) ~= today
  if scope.new_day then day_tokens, day_cost = 0, 0 end
  if tonumber(month) ~= this_month then month_tokens, month_cost = 0, 0 end
  scope.used = {
    tokens_per_day = tonumber(day_tokens), cost_per_day = tonumber(day_cost),
    tokens_per_month = tonumber(month_tokens), cost_per_month = tonumber(month_cost),
  }
  for position, name in ipairs(QUOTAS) do scope.bound[name] = tonumber(ARGV[first + 5 + position]) end
  return scope
end

local function save(scope)
  local used = scope.used
  local text = string.format('%d %s %s %d %d %d %d %d %d', now,
    scope.requests and string.format('%d', scope.requests) or '-',
    scope.tokens and string.format('%d', scope.tokens) or '-',
    today, used.tokens_per_day, used.cost_per_day, this_month, used.tokens_per_month, used.cost_per_month)
  redis.call('SET', scope.state, text, 'EX', LIFETIME_S)
end

local function charge(scope, more_tokens, more_cost, day, month)
  local used = scope.used
  if scope.tokens then scope.tokens = scope.tokens - more_tokens * MINUTE_MS end
  if day == today then
    used.tokens_per_day, used.cost_per_day = used.tokens_per_day + more_tokens, used.cost_per_day + more_cost
  end
  if month == this_month then
    used.tokens_per_month, used.cost_per_month = used.tokens_per_month + more_tokens, used.cost_per_month + more_cost
  end
  scope.changed = true
end

-- Replace what was reserved by what was used; nothing happens where nothing is reserved (any more).
local function give_back(scope, whose, used_tokens, used_cost, refund_request)
  redis.call('ZREM', scope.active, whose)
  local held = redis.call('HGET', scope.reserved, whose)
  if not held then return end
  redis.call('HDEL', scope.reserved, whose)
  local held_tokens, held_cost, day, month = string.match(held, '^(%d+) (%d+) (%d+) (%d+)$')
  charge(scope, used_tokens - held_tokens, used_cost - held_cost, tonumber(day), tonumber(month))
  if scope.tokens then scope.tokens = math.min(scope.tokens, scope.token_burst * MINUTE_MS) end
  if scope.requests and refund_request then
    scope.requests = math.min(scope.requests + MINUTE_MS, scope.request_burst * MINUTE_MS)
  end
end

local scopes = {}
for number = 1, known do scopes[number] = load_scope(number) end

local first = 7 + known * SCOPE_NUMBERS
while first < #ARGV do
  for position = first + 5, first + SETTLEMENT_NUMBERS do
    local scope = scopes[tonumber(ARGV[position])]
    if scope then
      give_back(scope, ARGV[first + 1], tonumber(ARGV[first + 2]), tonumber(ARGV[first + 3]), ARGV[first + 4] == '1')
    end
  end
  first = first + SETTLEMENT_NUMBERS
end

local function exceeded(scope)
  if scope.token_rate > 0 and tokens > scope.token_burst then return 'tokens_per_minute' end
  for _, name in ipairs(QUOTAS) do
    local part, bound = string.sub(name, 1, 6) == 'tokens' and tokens or cost, scope.bound[name]
    if bound > 0 and part > bound then return name end
  end
end

local function used_up(scope)
  for _, name in ipairs(QUOTAS) do
    local part, bound = string.sub(name, 1, 6) == 'tokens' and tokens or cost, scope.bound[name]
    if bound > 0 and scope.used[name] + part > bound then return name end
  end
end

local function refusal()
  for number = 1, asked do
    local name = exceeded(scopes[number])
    if name then return {'exceeds', name, number, 0} end
  end
  for number = 1, asked do
    local name = used_up(scopes[number])
    if name then return {'quota', name, number, 0} end
  end
  local longest = {'rate', '', 0, 0}
  local function wait(missing, rate, name, number)
    local ms = math.ceil(missing / rate)
    if ms > longest[4] then longest = {'rate', name, number, ms} end
  end
  for number = 1, asked do
    local scope = scopes[number]
    if scope.requests then wait(MINUTE_MS - scope.requests, scope.request_rate, 'requests_per_minute', number) end
    if scope.tokens then wait(tokens * MINUTE_MS - scope.tokens, scope.token_rate, 'tokens_per_minute', number) end
  end
  if longest[4] > 0 then return longest end
  for number = 1, asked do
    local scope = scopes[number]
    if scope.concurrent > 0 and scope.running >= scope.concurrent then
      return {'concurrency', 'concurrent_requests', number, 0}
    end
  end
end

local function take(scope)
  redis.call('ZADD', scope.active, now + ttl, uid)
  redis.call('HSET', scope.reserved, uid, string.format('%d %d %d %d', tokens, cost, today, this_month))
  if scope.running == 0 or scope.new_day then
    redis.call('EXPIRE', scope.active, LIFETIME_S)
    redis.call('EXPIRE', scope.reserved, LIFETIME_S)
  end
  if scope.requests then scope.requests = scope.requests - MINUTE_MS end
  charge(scope, tokens, cost, today, this_month)
end

local answer = {now, '', '', 0, 0}
if asked > 0 then
  for number = 1, asked do
    local scope = scopes[number]
    scope.running = redis.call('ZCARD', scope.active)
    if scope.running > 0 then
      local expired = redis.call('ZRANGEBYSCORE', scope.active, '-inf', now, 'LIMIT', 0, RECLAIM_AT_ONCE)
      for _, whose in ipairs(expired) do give_back(scope, whose, 0, 0, false) end
      scope.running = scope.running - #expired
    end
  end
  -- A reservation that was made and whose answer was lost is asked for again by the same name.
  if redis.call('HEXISTS', scopes[1].reserved, uid) == 0 then
    local no = refusal()
    if no then
      answer = {now, unpack(no)}
    else
      for number = 1, asked do take(scopes[number]) end
    end
  end
end
for number = 1, known do
  local scope = scopes[number]
  if scope.changed then save(scope) end
  if number <= asked then
    answer[#answer + 1] = scope.requests or 0
    answer[#answer + 1] = scope.tokens or 0
  end
end
return answer
"""
)

# Nobody who has ended comes to life again. Argument: lease in ms; then uids.
BEAT: Final = Script.of(r"""
local time = redis.call('TIME')
local till = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[1])
for position = 2, #ARGV do redis.call('ZADD', KEYS[1], 'XX', till, ARGV[position]) end
return #ARGV - 1
""")


def limits_call(ask: Ask | None, settled: Sequence[Settlement], ttl_ms: int, now: int = 0) -> ScriptCall:
    """Settle, and reserve if anything is asked; all of one tenant. `now`: for tests, 0 for the server's clock."""
    own = ask.scopes if ask else ()
    scopes: dict[str, Scope] = {scope.prefix: scope for scope in own}
    for one in settled:
        for scope in one.ask.scopes:
            scopes.setdefault(scope.prefix, scope)
    positions = {prefix: number for number, prefix in enumerate(scopes, 1)}
    arguments: list[Argument] = [now, ttl_ms, len(own)]
    arguments += (ask.uid, ask.tokens, ask.cost) if ask else ("", 0, 0)
    arguments.append(len(scopes))
    for scope in scopes.values():
        arguments += scope.numbers
    for one in settled:
        arguments += (one.ask.uid, one.tokens, one.cost, int(one.refund_request))
        places = [positions[scope.prefix] for scope in one.ask.scopes]
        arguments += places + [0] * (MOST_SCOPES - len(places))
    return ScriptCall(LIMITS, [key for scope in scopes.values() for key in scope.keys], arguments)


def verdict_of(answer: Sequence[Any]) -> Verdict:
    now, kind, limit, scope, wait_ms, *levels = answer
    refusal = Refusal(kind.decode(), _LIMITS[limit], scope - 1, wait_ms) if kind else None
    pairs = zip(levels[::2], levels[1::2], strict=True)
    return Verdict(now, refusal, tuple(Level(requests, tokens) for requests, tokens in pairs))


_LIMITS: Final[dict[bytes, Limit]] = {
    b"requests_per_minute": "requests_per_minute",
    b"tokens_per_minute": "tokens_per_minute",
    b"concurrent_requests": "concurrent_requests",
    b"tokens_per_day": "tokens_per_day",
    b"tokens_per_month": "tokens_per_month",
    b"cost_per_day": "cost_per_day",
    b"cost_per_month": "cost_per_month",
}
