-- Add an entry to the log, and drop those that are older than it keeps.
-- KEYS  1 the log
-- ARGV  1 the entry   2 seconds that entries are kept
local oldest = math.floor(microseconds() / 1000) - 1000 * ARGV[2]
local id = redis.call('XADD', KEYS[1], 'MINID', '~', string.format('%.0f', oldest), '*', 'entry', ARGV[1])
redis.call('EXPIRE', KEYS[1], 2 * ARGV[2])
return id
