-- Keep users' sessions for longer, and say whose are not there.
-- KEYS  users' sessions
-- ARGV  1 seconds
local missing = {}
for i = 1, #KEYS do
  if redis.call('EXPIRE', KEYS[i], ARGV[1]) == 0 then
    missing[#missing + 1] = i
  end
end
return missing
