-- Records how an attempt ended, for the holder of the claim. KEYS, ARGV and results as in parts/record.lua, and
-- ARGV 3 worker 4 the attempt's number 5 the attempt
-- Gives `upload` or `stale`.
-- include parts/record
local refused = refusal('stale')
if refused then return refused end
if not isHeldBy(ARGV[3]) then return { 'stale' } end
if redis.call('HEXISTS', KEYS[1], 'attempt:' .. ARGV[4]) == 0 then
  return broken('attempt ' .. ARGV[4] .. ' ends, which it cannot')
end
-- The result must be stored even when memory is full: a first write that needs no memory lets the following ones pass.
redis.call('HDEL', KEYS[1], 'dueAt')
set('attempt:' .. ARGV[4], ARGV[5])
return whole()
