-- Put an answer into the mailbox of a process.
-- KEYS  1 the mailbox
-- ARGV  1 the answer   2 most entries   3 seconds that it is kept
local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', 'mail', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return id
