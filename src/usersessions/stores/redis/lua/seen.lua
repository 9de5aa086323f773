-- Note when a session of this process was last heard of.
-- KEYS  1 the user's sessions
-- ARGV  1 client   2 the leases this process has ever had   3 how long ago, in microseconds
local existing = redis.call('HGET', KEYS[1], ARGV[1])
if existing then
  local state, lease, since, at, _, start = head(existing)
  if lease and words(ARGV[2])[lease] then
    local seen = microseconds() - tonumber(ARGV[3])
    local record = string.sub(existing, start)
    redis.call('HSET', KEYS[1], ARGV[1], value(state, lease, since, at, seen, record))
  end
end
return 1
