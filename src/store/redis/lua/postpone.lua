-- delivering → complete, to be tried again. KEYS, ARGV and results as in parts/record.lua, and
-- ARGV 3 worker 4 dueAt 5 the same by this server's clock
-- Gives `upload` or `stale`.
-- include parts/record
local refused = refusal('stale')
if refused then return refused end
if record.phase == 'complete' and record.worker == ARGV[3] and record.dueAt == ARGV[4] then return whole() end
if not isHeldBy(ARGV[3]) then return { 'stale' } end
neverDue()
set('dueAt', ARGV[4])
enter('complete')
dueAt(ARGV[5])
expiresAt(record.endsAt)
return whole()
