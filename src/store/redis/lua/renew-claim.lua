-- Extends a claim that is still held, or gives it back to the worker of the newest attempt. KEYS, ARGV and results as in
-- parts/record.lua, and
-- ARGV 3 worker 4 for how many milliseconds 5 number of an attempt that this worker began, or ''
-- Gives `renewed` or `stale`.
-- include parts/record
-- include parts/time
-- include parts/claim
local refused = refusal('stale')
if refused then return refused end
-- The worker gave up the claim itself, so it has no further result to record.
local isOwnEnd = record.worker == ARGV[3]
if not isHeldBy(ARGV[3]) and (isOwnEnd or not isNewest(ARGV[5])) then return { 'stale' } end
local claimedUntil = claim(ARGV[3], ARGV[4])
redis.call('HDEL', KEYS[1], 'dueAt', 'undelivered')
enter('delivering')
dueAt(claimedUntil)
expiresAt(later(record.endsAt, claimedUntil))
return { 'renewed' }
