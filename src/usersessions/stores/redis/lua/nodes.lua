-- Who is alive.
-- KEYS  1 the leases   2 what the processes say of themselves
-- ARGV  leases to ask for; none asks for all
-- Gives for each that is held: lease, milliseconds left, what its process says of itself.
local now = math.floor(microseconds() / 1000)
local asked = #ARGV > 0 and ARGV or redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')
local alive = {}
for i = 1, #asked do
  local ends = redis.call('ZSCORE', KEYS[1], asked[i])
  if ends and tonumber(ends) > now then
    alive[#alive + 1] = asked[i]
    alive[#alive + 1] = tonumber(ends) - now
    alive[#alive + 1] = redis.call('HGET', KEYS[2], asked[i]) or ''
  end
end
return alive
