-- Records the start of an attempt, for the holder of the claim. KEYS, ARGV and results as in parts/record.lua, and
-- ARGV 3 worker 4 the attempt's number 5 the attempt
-- Gives `upload` or `stale`.
-- include parts/record
local KEPT_ATTEMPTS = 20
local refused = refusal('stale')
if refused then return refused end
if not isHeldBy(ARGV[3]) then return { 'stale' } end
local known = redis.call('HGET', KEYS[1], 'attempt:' .. ARGV[4])
if known == ARGV[5] then return whole() end
if known then return broken('attempt ' .. ARGV[4] .. ' begins, which it cannot') end
set('attempt:' .. ARGV[4], ARGV[5])
redis.call('HINCRBY', KEYS[1], 'attemptCount', 1)
redis.call('HDEL', KEYS[1], 'attempt:' .. (ARGV[4] - KEPT_ATTEMPTS))
return whole()
