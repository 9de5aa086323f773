-- Give up the lease of a process that holds no sessions any more.
-- KEYS  1 the leases   2 what the processes say of themselves   3 the process's mailbox
-- ARGV  1 lease
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('DEL', KEYS[3])
return 1
