-- → answered, for the holder of the claim or any worker with the answer of the newest attempt. KEYS, ARGV and results as in
-- parts/record.lua, and
-- KEYS 7 answer body   ARGV 3 worker 4 answer 5 its time 6 'record' when the body is kept here 7 the body
-- 8 expiresAt 9 the same by this server's clock 10 number of the attempt that brought it or '' 11 that attempt
-- Gives `upload` or `stale`.
-- include parts/record
local refused = refusal('stale')
if refused then return refused end
local field = ARGV[10] ~= '' and 'attempt:' .. ARGV[10]
local known = field and redis.call('HGET', KEYS[1], field)
if record.phase == 'answered' and record.worker == ARGV[3] and record.answerAt == ARGV[5] then
  return (not field or known == ARGV[11]) and whole() or { 'stale' }
end
if not isHeldBy(ARGV[3]) and not isNewest(ARGV[10]) then return { 'stale' } end
if field and not known then return broken('attempt ' .. ARGV[10] .. ' ends, which it cannot') end
neverDue()
if ARGV[6] == 'record' then redis.call('SET', KEYS[7], ARGV[7]) end
if field then set(field, ARGV[11]) end
redis.call('HDEL', KEYS[1], 'dueAt', 'undelivered')
set('worker', ARGV[3], 'answer', ARGV[4], 'answerAt', ARGV[5], 'expiresAt', ARGV[8], 'endsAt', ARGV[9])
settle('answered')
expiresAt(ARGV[9])
return whole()
