-- Extends a claim that is still held. KEYS, ARGV and results as in parts/record.lua, and
-- ARGV 3 worker 4 until, by this server's clock
-- Gives `renewed` or `stale`.
-- include parts/record
local refused = refusal('stale')
if refused then return refused end
if not isHeldBy(ARGV[3]) then return { 'stale' } end
set('claimedUntil', ARGV[4])
dueAt(ARGV[4])
expiresAt(later(record.endsAt, ARGV[4]))
return { 'renewed' }
