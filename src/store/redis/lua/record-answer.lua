-- delivering → answered, by the holder of the claim. KEYS, ARGV and results as in parts/record.lua, and
-- KEYS 6 answer body   ARGV 3 worker 4 answer 5 its time 6 'record' when the body is kept here 7 the body
-- 8 expiresAt 9 the same by this server's clock
-- Gives `upload` or `stale`.
-- include parts/record
local refused = refusal('stale')
if refused then return refused end
if record.phase == 'answered' and record.worker == ARGV[3] and record.answerAt == ARGV[5] then return whole() end
if not isHeldBy(ARGV[3]) then return { 'stale' } end
neverDue()
if ARGV[6] == 'record' then redis.call('SET', KEYS[6], ARGV[7]) end
set('answer', ARGV[4], 'answerAt', ARGV[5], 'expiresAt', ARGV[8], 'endsAt', ARGV[9])
settle('answered')
expiresAt(ARGV[9])
return whole()
