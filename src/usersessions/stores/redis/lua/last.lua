-- The ID of the last entry of a log.
-- KEYS  1 the log
return last_entry(KEYS[1])
