-- Records that the first attempt begins before the upload is complete. KEYS, ARGV and results as in parts/record.lua, and
-- ARGV 3 its number 4 the attempt
-- Gives `upload` or `stale`.
-- include parts/record
local refused = refusal('stale')
if refused then return refused end
local field = 'attempt:' .. ARGV[3]
if record.phase ~= 'receiving' then return { 'stale' } end
if redis.call('HGET', KEYS[1], field) == ARGV[4] then return whole() end
if redis.call('HGET', KEYS[1], 'attemptCount') ~= '0' then return { 'stale' } end
set(field, ARGV[4], 'attemptCount', 1)
return whole()
