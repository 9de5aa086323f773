-- What several scripts need; it stands in front of each of them.

-- This moment by the server's clock, in microseconds.
local function microseconds()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- A set of the words of a string.
local function words(text)
  local set = {}
  for word in string.gmatch(text, '%S+') do
    set[word] = true
  end
  return set
end

-- The head of a value: its state, lease, since, at and seen, and where its record begins; nothing
-- if this version cannot read it.
local function head(value)
  local first, last, state, lease, since, at, seen =
    string.find(value, '^1([+-]) (%x+) (%d+%-%d+) (%d+) (%d+)\n')
  if first then
    return state, lease, since, at, seen, last + 1
  end
end

-- A value from its head and its record; times are in microseconds.
local function value(state, lease, since, at, seen, record)
  local line = string.format('1%s %s %s %.0f %.0f\n', state, lease, since, at, seen)
  return line .. record
end

-- Why somebody is kept out, or nil.
-- `issued_at` is the moment their token was issued, '' if there is no token.
local function kept_out(key, issued_at)
  local marks = redis.call('HMGET', key, 'blocked', 'before', 'until')
  local now = microseconds() / 1000000
  if marks[1] and now < tonumber(marks[1]) then
    return 'blocked'
  end
  if issued_at ~= '' and marks[3] and now < tonumber(marks[3]) then
    if tonumber(issued_at) < tonumber(marks[2]) then
      return 'revoked'
    end
  end
end

-- Keep a key until a moment, in seconds since the epoch; for ever if that is infinite.
local function keep_until(key, moment)
  if moment == math.huge then
    redis.call('PERSIST', key)
  else
    redis.call('PEXPIREAT', key, string.format('%.0f', math.ceil(moment * 1000)))
  end
end

-- The ID of the last entry of a log.
local function last_entry(key)
  local entry = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
  return entry and entry[1] or '0-0'
end
