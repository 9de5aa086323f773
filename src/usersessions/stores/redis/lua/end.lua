-- Forget a session of this process; with a mark where a late request might bring it back.
-- KEYS  1 the user's sessions   2 the mark of a session that has ended
-- ARGV  1 client   2 the leases this process has ever had   3 milliseconds of the mark, 0 for none
local value = redis.call('HGET', KEYS[1], ARGV[1])
if value then
  local _, lease = head(value)
  if lease and words(ARGV[2])[lease] then
    redis.call('HDEL', KEYS[1], ARGV[1])
  end
end
if ARGV[3] ~= '0' then
  redis.call('SET', KEYS[2], '', 'PX', ARGV[3])
end
return 1
