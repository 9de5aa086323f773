-- Keep a token out; never for less time than it is already.
-- KEYS  1 the token's mark
-- ARGV  1 until when, in milliseconds since the epoch
local left = tonumber(ARGV[1]) - microseconds() / 1000
if left > redis.call('PTTL', KEYS[1]) and left >= 1 then
  redis.call('SET', KEYS[1], '', 'PX', string.format('%.0f', left))
end
return 1
