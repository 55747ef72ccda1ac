-- Gives one worker the right to deliver. KEYS, ARGV and results as in parts/record.lua, and
-- ARGV 3 worker 4 for how many milliseconds 5 number of an eager attempt that continues, or '' 6 that attempt's new value
-- Gives `upload`, or `none`: another worker has the claim, or there is nothing to deliver.
-- include parts/record
-- include parts/time
-- include parts/claim
local UNSURE_MS = 1000
local refused = refusal('none')
if refused then return refused end
local early = ARGV[5] ~= '' and 'attempt:' .. ARGV[5]
if early then
  local known = redis.call('HGET', KEYS[1], early)
  if not known or string.sub(known, 1, 1) ~= 'i' then return { 'none' } end
end
if record.phase == 'delivering' then
  -- A claim that would last longer than it was taken for shows that the clock was set back since.
  local left = record.claimedUntil - serverTime()
  if left > 0 and left <= (record.claimMs or left) + UNSURE_MS then return { 'none' } end
elseif record.phase ~= 'complete' and record.phase ~= 'undelivered' then
  return { 'none' }
end
local claimedUntil = claim(ARGV[3], ARGV[4])
if early then set(early, ARGV[6]) end
redis.call('HDEL', KEYS[1], 'dueAt', 'undelivered')
enter('delivering')
dueAt(claimedUntil)
expiresAt(later(record.endsAt, claimedUntil))
return whole()
