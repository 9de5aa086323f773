-- Keep users' sessions for longer, and say who has lost some.
-- KEYS  users' sessions
-- ARGV  1 seconds   2... for each of KEYS, the session that is looked for
-- Others may have written theirs since: that there are sessions does not mean that none was lost.
local missing = {}
for i = 1, #KEYS do
  redis.call('EXPIRE', KEYS[i], ARGV[1])
  -- Not stopped by one key that is something else.
  if redis.pcall('HEXISTS', KEYS[i], ARGV[i + 1]) == 0 then
    missing[#missing + 1] = i
  end
end
return missing
