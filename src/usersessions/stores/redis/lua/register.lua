-- Make a session visible, or write it once more; unless its user or token is kept out, it has ended
-- meanwhile, another process holds it, or its user has sessions enough.
-- A record stands behind its checksum of eight digits and a space.
-- KEYS  1 the user's sessions   2 what keeps the user out   3 the mark of a session that has ended
--       where one server holds all keys, also: 4 the log, and for a token with an ID: 5 its mark
-- ARGV  1 client   2 its record   3 this process's lease   4 the leases it has ever had
--       5 "new", or "again" for a session that was registered before, which is not checked
--       6 age of the session in microseconds   7 last seen as long ago, "" if never
--       8 the last entry of the log, where KEYS has no log   9 seconds that KEYS 1 is kept
--       10 issued_at, "" without a token   11 most sessions, 0 for any number
--       12 "reject", "evict_oldest" or "evict_idle"
--       13 how the records begin that count: "" for all, "-" for those without an app name
--       14 leases known to be held   15 leases known to be lost   16 "+" open, "-" told to end
-- Gives {"ok", since, clients that have to make room...}, {"blocked"}, {"revoked"}, {"limit"},
-- {"ended"}, {"taken", lease}, or {"unsure", leases...} where it has to be known first who is alive.
local sessions, client = KEYS[1], ARGV[1]
local mine, held, lost = words(ARGV[4]), words(ARGV[14]), words(ARGV[15])

if redis.call('EXISTS', KEYS[3]) == 1 then
  return {'ended'}
end

local since = KEYS[4] and last_entry(KEYS[4]) or ARGV[8]
local is_new = ARGV[5] == 'new'
local is_retry = false
local existing = redis.call('HGET', sessions, client)
if existing then
  local _, lease, known_since = head(existing)
  if lease and mine[lease] then
    since, is_retry = known_since, true
  elseif not (lease and lost[lease]) then
    return {'taken', lease or ''}
  end
end

local told = {}
if is_new then
  if KEYS[5] and redis.call('EXISTS', KEYS[5]) == 1 then
    return {'revoked'}
  end
  local why = kept_out(KEYS[2], ARGV[10])
  if why then
    return {why}
  end
  local most = tonumber(ARGV[11])
  if most > 0 and redis.call('HLEN', sessions) >= most then
    local rivals, unsure = {}, {}
    local all = redis.call('HGETALL', sessions)
    for i = 1, #all, 2 do
      local state, lease, _, at, seen, start = head(all[i + 1])
      local begin = ARGV[13]
      local counts
      if begin == '-' then
        counts = state and string.sub(all[i + 1], start + 9, start + 20) ~= '{"app_name":'
      else
        counts = state and string.sub(all[i + 1], start + 9, start + 8 + #begin) == begin
      end
      if counts and all[i] ~= client then
        if lost[lease] then
          redis.call('HDEL', sessions, all[i])
        elseif not (held[lease] or mine[lease]) then
          unsure[#unsure + 1] = lease
        elseif state == '-' then
          told[#told + 1] = all[i]
        else
          at, seen = tonumber(at), tonumber(seen)
          local idle = ARGV[12] == 'evict_idle' and seen > 0
          rivals[#rivals + 1] = {all[i], idle and seen or at}
        end
      end
    end
    if #unsure > 0 then
      return {'unsure', unpack(unsure)}
    end
    local excess = #rivals + 1 - most
    if not is_retry then
      told = {}
    end
    if excess > 0 and not is_retry then
      if ARGV[12] == 'reject' then
        return {'limit'}
      end
      table.sort(rivals, function(one, other) return one[2] < other[2] end)
      for i = 1, excess do
        local rival = rivals[i][1]
        redis.call('HSET', sessions, rival, '1-' .. string.sub(redis.call('HGET', sessions, rival), 3))
        told[#told + 1] = rival
      end
    end
  end
end

local now = microseconds()
local seen = ARGV[7] == '' and 0 or now - tonumber(ARGV[7])
local at = now - tonumber(ARGV[6])
redis.call('HSET', sessions, client, value(ARGV[16], ARGV[3], since, at, seen, ARGV[2]))
redis.call('EXPIRE', sessions, ARGV[9])
return {'ok', since, unpack(told)}
