-- Keep a user out; never for less time than they are already.
-- KEYS  1 what keeps the user out
-- ARGV  1 until when, in seconds since the epoch; "inf" until it is lifted
local known = redis.call('HGET', KEYS[1], 'blocked')
if not known or tonumber(known) < tonumber(ARGV[1]) then
  redis.call('HSET', KEYS[1], 'blocked', ARGV[1])
end
local ends = 0
for _, name in ipairs({'blocked', 'until'}) do
  ends = math.max(ends, tonumber(redis.call('HGET', KEYS[1], name) or 0))
end
keep_until(KEYS[1], ends)
return 1
