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
if ends == math.huge then
  redis.call('PERSIST', KEYS[1])
else
  redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', math.ceil(ends * 1000)))
end
return 1
