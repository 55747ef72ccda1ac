-- delivering → undelivered. KEYS, ARGV and results as in parts/record.lua, and
-- ARGV 3 worker 4 why
-- Gives `upload` or `stale`.
-- include parts/record
local refused = refusal('stale')
if refused then return refused end
if record.phase == 'undelivered' and record.worker == ARGV[3] then
  return redis.call('HGET', KEYS[1], 'undelivered') == ARGV[4] and whole() or { 'stale' }
end
if not isHeldBy(ARGV[3]) then return { 'stale' } end
neverDue()
set('undelivered', ARGV[4])
settle('undelivered')
expiresAt(record.endsAt)
return whole()
