-- receiving → answered, in one step with the end of the eager attempt. KEYS, ARGV and results as in parts/record.lua, and
-- KEYS 7 answer body   ARGV 3 the attempt's number 4 the attempt 5 answer 6 its time 7 'record' when the body is kept here
-- 8 the body 9 expiresAt 10 the same by this server's clock
-- Gives `upload` or `stale`.
-- include parts/record
local refused = refusal('stale')
if refused then return refused end
local field = 'attempt:' .. ARGV[3]
local known = redis.call('HGET', KEYS[1], field)
if record.phase == 'answered' and record.answerAt == ARGV[6] and known == ARGV[4] then return whole() end
if record.phase ~= 'receiving' or not known or string.sub(known, 1, 1) ~= 'i' then return { 'stale' } end
neverDue()
if ARGV[7] == 'record' then redis.call('SET', KEYS[7], ARGV[8]) end
set(field, ARGV[4], 'answer', ARGV[5], 'answerAt', ARGV[6], 'expiresAt', ARGV[9], 'endsAt', ARGV[10])
settle('answered')
expiresAt(ARGV[10])
return whole()
