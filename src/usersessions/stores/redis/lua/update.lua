-- Give a session of this process another record.
-- KEYS  1 the user's sessions   2 what keeps the user out
--       where one server holds all keys, also: 3 the log, and for a token with an ID: 4 its mark
-- ARGV  1 client   2 its record   3 the leases this process has ever had
--       4 issued_at of the new token; "" asks nothing   5 the last entry of the log, where KEYS has none
-- Gives {"ok", the last entry of the log}, {"blocked"} or {"revoked"}.
if ARGV[4] ~= '' then
  if KEYS[4] and redis.call('EXISTS', KEYS[4]) == 1 then
    return {'revoked'}
  end
  local why = kept_out(KEYS[2], ARGV[4])
  if why then
    return {why}
  end
end
local existing = redis.call('HGET', KEYS[1], ARGV[1])
if existing then
  local state, lease, since, at, seen = head(existing)
  if lease and words(ARGV[3])[lease] then
    redis.call('HSET', KEYS[1], ARGV[1], value(state, lease, since, at, seen, ARGV[2]))
  end
end
return {'ok', KEYS[3] and last_entry(KEYS[3]) or ARGV[5]}
