-- Keep out a user's tokens that were issued before a moment; what was said before and has not ended
-- is never made narrower.
-- KEYS  1 what keeps the user out
-- ARGV  1 the moment   2 until when; both in seconds since the epoch
local before, ends = ARGV[1], ARGV[2]
local marks = redis.call('HMGET', KEYS[1], 'before', 'until', 'blocked')
if marks[2] and microseconds() / 1000000 < tonumber(marks[2]) then
  if tonumber(marks[1]) > tonumber(before) then
    before = marks[1]
  end
  if tonumber(marks[2]) > tonumber(ends) then
    ends = marks[2]
  end
end
redis.call('HSET', KEYS[1], 'before', before, 'until', ends)
keep_until(KEYS[1], math.max(tonumber(ends), tonumber(marks[3] or 0)))
return 1
