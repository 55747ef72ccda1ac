-- Ends the eager attempt, while the upload is receiving. KEYS, ARGV and results as in parts/record.lua, and
-- ARGV 3 its number 4 the attempt
-- Gives `upload` or `stale`.
-- include parts/record
local refused = refusal('stale')
if refused then return refused end
if record.phase ~= 'receiving' then return { 'stale' } end
local field = 'attempt:' .. ARGV[3]
local known = redis.call('HGET', KEYS[1], field)
if known == ARGV[4] then return whole() end
if not known or string.sub(known, 1, 1) ~= 'i' then return { 'stale' } end
set(field, ARGV[4])
return whole()
