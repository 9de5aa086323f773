-- Take or renew the lease of a process. One that was lost is never renewed: others may have acted on
-- its loss already.
-- KEYS  1 the leases   2 what the processes say of themselves   3 the log
-- ARGV  1 lease   2 its milliseconds   3 what the process says of itself   4 "take" or "renew"
--       5 a former lease that is given up; "" for none
-- Gives {"ok" or "lost", the last entry of the log}.
local now = math.floor(microseconds() / 1000)
local function forget(lease)
  redis.call('ZREM', KEYS[1], lease)
  redis.call('HDEL', KEYS[2], lease)
end
if ARGV[5] ~= '' then
  forget(ARGV[5])
end
if ARGV[4] == 'renew' then
  local ends = redis.call('ZSCORE', KEYS[1], ARGV[1])
  if not ends or tonumber(ends) <= now then
    forget(ARGV[1])
    return {'lost', last_entry(KEYS[3])}
  end
end
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
for _, lease in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 64)) do
  forget(lease)
end
for i = 1, 2 do
  if redis.call('PTTL', KEYS[i]) < 2 * ARGV[2] then
    redis.call('PEXPIRE', KEYS[i], 2 * ARGV[2])
  end
end
return {'ok', last_entry(KEYS[3])}
