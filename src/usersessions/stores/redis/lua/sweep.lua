-- Forget the sessions of processes whose lease is lost, which never comes back.
-- KEYS  1 a user's sessions
-- ARGV  1 leases that are lost   2... clients
local lost = words(ARGV[1])
for i = 2, #ARGV do
  local value = redis.call('HGET', KEYS[1], ARGV[i])
  if value then
    local _, lease = head(value)
    if lease and lost[lease] then
      redis.call('HDEL', KEYS[1], ARGV[i])
    end
  end
end
return 1
