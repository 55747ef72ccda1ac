-- Gives one worker the right to deliver. KEYS, ARGV and results as in parts/record.lua, and
-- ARGV 3 worker 4 until, by this server's clock 5 number of the early attempt that goes on or '' 6 that attempt as it is then
-- Gives `upload`, or `none`: somebody has it, or there is nothing to deliver.
-- include parts/record
-- include parts/time
local refused = refusal('none')
if refused then return refused end
local early = ARGV[5] ~= '' and 'attempt:' .. ARGV[5]
if early then
  local known = redis.call('HGET', KEYS[1], early)
  if not known or string.sub(known, 1, 1) ~= 'i' then return { 'none' } end
end
if record.phase == 'delivering' then
  if tonumber(record.claimedUntil) > serverTime() then return { 'none' } end
elseif record.phase ~= 'complete' and record.phase ~= 'undelivered' then
  return { 'none' }
end
set('worker', ARGV[3], 'claimedUntil', ARGV[4])
if early then set(early, ARGV[6]) end
redis.call('HDEL', KEYS[1], 'dueAt', 'undelivered')
enter('delivering')
dueAt(ARGV[4])
expiresAt(later(record.endsAt, ARGV[4]))
return whole()
