"""The Lua that runs inside the store, where several keys must change together or not at all.

Leases of services are kept as expiry times in a sorted set, by the store's own clock, so that
hosts need not agree on the time.
"""

from __future__ import annotations

_NOW = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
"""

ANNOUNCE = (
    _NOW
    + """
-- KEYS: expiries, infos   ARGV: member, info, ttl in ms
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
"""
)

SERVICES = (
    _NOW
    + """
-- KEYS: expiries, infos   gives member, info, member, info, ...
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do
  redis.call('ZREM', KEYS[1], member)
  redis.call('HDEL', KEYS[2], member)
end
return redis.call('HGETALL', KEYS[2])
"""
)

ACQUIRE = """
-- KEYS: owner, epoch   ARGV: token, ttl in ms, '1' to take it over
-- gives the epoch, or false while somebody else is the owner
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] and ARGV[3] ~= '1' then return false end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
if holder == ARGV[1] then return tonumber(redis.call('GET', KEYS[2])) end
return redis.call('INCR', KEYS[2])
"""

RENEW = """
-- KEYS: owner   ARGV: token, ttl in ms   gives 1 if it was ours
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""

RELEASE = """
-- KEYS: owner   ARGV: token
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""

PUT_SCAN = """
-- KEYS: scans   ARGV: scan id, its number or '', scans to keep, prefix of records, field, value, field, value, ...
if ARGV[2] ~= '' then
  redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
elseif not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  local newest = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2] or 0
  redis.call('ZADD', KEYS[1], newest + 1, ARGV[1])
end
for i = 5, #ARGV, 2 do redis.call('HSET', ARGV[4] .. ARGV[1], ARGV[i], ARGV[i + 1]) end
local excess = redis.call('ZCARD', KEYS[1]) - ARGV[3]
if excess > 0 then
  for _, old in ipairs(redis.call('ZRANGE', KEYS[1], 0, excess - 1)) do
    redis.call('DEL', ARGV[4] .. old)
    redis.call('ZREM', KEYS[1], old)
  end
end
"""

PUT_PARAMETERS = """
-- Values are stored once per content and counted: a mask of megabytes is not copied with every version.
-- KEYS: history, blobs, references
-- ARGV: entry (JSON), its version, entries to keep, digest, value, digest, value, ...
local version, at, after = tonumber(ARGV[2]), -1, nil
while true do
  local there = redis.call('LINDEX', KEYS[1], at)
  local known = there and cjson.decode(there).version
  if there == ARGV[1] then return end
  if not known or known < version then
    after = after or there
    break
  end
  if known == version then after = after or there end
  at = at - 1
end
for i = 4, #ARGV, 2 do
  redis.call('HSETNX', KEYS[2], ARGV[i], ARGV[i + 1])
  redis.call('HINCRBY', KEYS[3], ARGV[i], 1)
end
if not after then
  redis.call('LPUSH', KEYS[1], ARGV[1])
elseif after == redis.call('LINDEX', KEYS[1], -1) then
  redis.call('RPUSH', KEYS[1], ARGV[1])
else
  redis.call('LINSERT', KEYS[1], 'AFTER', after, ARGV[1])
end
while redis.call('LLEN', KEYS[1]) > tonumber(ARGV[3]) do
  for _, digest in pairs(cjson.decode(redis.call('LPOP', KEYS[1])).values) do
    if redis.call('HINCRBY', KEYS[3], digest, -1) <= 0 then
      redis.call('HDEL', KEYS[2], digest)
      redis.call('HDEL', KEYS[3], digest)
    end
  end
end
"""

PARAMETERS = """
-- KEYS: history, blobs   ARGV: newest entries wanted, scan id or ''   gives {entries, {digest, value, ...}}
local all = redis.call('LRANGE', KEYS[1], 0, -1)
local entries, blobs, seen = {}, {}, {}
for i = #all, 1, -1 do
  if #entries >= tonumber(ARGV[1]) then break end
  local entry = cjson.decode(all[i])
  if ARGV[2] == '' or entry.scan_id == ARGV[2] then
    entries[#entries + 1] = all[i]
    for _, digest in pairs(entry.values) do
      if not seen[digest] then
        seen[digest] = true
        blobs[#blobs + 1] = digest
        blobs[#blobs + 1] = redis.call('HGET', KEYS[2], digest)
      end
    end
  end
end
return {entries, blobs}
"""
