-- Mark sessions as told to end: they do not count against a limit any more.
-- KEYS  1 the user's sessions
-- ARGV  clients
for i = 1, #ARGV do
  local value = redis.call('HGET', KEYS[1], ARGV[i])
  if value and string.sub(value, 1, 3) == '1+ ' then
    redis.call('HSET', KEYS[1], ARGV[i], '1-' .. string.sub(value, 3))
  end
end
return 1
