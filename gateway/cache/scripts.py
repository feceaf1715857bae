"""What Valkey runs for idempotency keys, in one step each.

A key is a hash: `fingerprint` of the request, `owner` (who answers it), and once it is answered `status`, `type` and
`body`. Repeating any of them changes nothing more.
"""

from gateway.valkey.connection import Script

CLAIM = Script.of("""
-- fingerprint, owner, lease in ms -> "free" | "mismatch" | "running" | "done", status, type, body
local fingerprint, owner, status = unpack(redis.call('HMGET', KEYS[1], 'fingerprint', 'owner', 'status'))
if fingerprint and fingerprint ~= ARGV[1] then return {'mismatch'} end
if status then return {'done', status, unpack(redis.call('HMGET', KEYS[1], 'type', 'body'))} end
if owner and owner ~= ARGV[2] then return {'running'} end
redis.call('HSET', KEYS[1], 'fingerprint', ARGV[1], 'owner', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {'free'}
""")

EXTEND = Script.of("""
-- owner, lease in ms -> 1: the claim stands, 0: it does not
local owner, status = unpack(redis.call('HMGET', KEYS[1], 'owner', 'status'))
if owner ~= ARGV[1] or status then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
""")

STORE = Script.of("""
-- fingerprint, owner, ms to keep, status, type, body -> 1: stored, 0: somebody else has the key
local owner, status = unpack(redis.call('HMGET', KEYS[1], 'owner', 'status'))
if owner and owner ~= ARGV[2] then return 0 end
if status then return 1 end
redis.call('HSET', KEYS[1], 'fingerprint', ARGV[1], 'owner', ARGV[2], 'status', ARGV[4], 'type', ARGV[5],
  'body', ARGV[6])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
""")

RELEASE = Script.of("""
-- owner -> 1: the key is free, 0: it was answered, or is somebody else's
local owner, status = unpack(redis.call('HMGET', KEYS[1], 'owner', 'status'))
if owner ~= ARGV[1] or status then return 0 end
return redis.call('DEL', KEYS[1])
""")
