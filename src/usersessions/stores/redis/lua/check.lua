-- Whether a user or their token is kept out.
-- KEYS  1 what keeps the user out   where one server holds all keys, for a token with an ID: 2 its mark
-- ARGV  1 issued_at, "" without a token
-- Gives "ok", "blocked" or "revoked".
if KEYS[2] and redis.call('EXISTS', KEYS[2]) == 1 then
  return 'revoked'
end
return kept_out(KEYS[1], ARGV[1]) or 'ok'
