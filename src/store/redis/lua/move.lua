-- Records that the bytes are on another node now. KEYS, ARGV and results as in parts/record.lua, and
-- KEYS 7 due of the other node 8 expires of the other node   ARGV 3 token 4 the other node
-- 5 the phase that the caller saw, or '' 6 the number of attempts that it saw
-- Gives `upload`, `stale`, or `gone` (also while it is being delivered, or was delivered since the caller saw it).
-- include parts/record
local refused = refusal('gone')
if refused then return refused end
if tonumber(ARGV[3]) < tonumber(record.token) then return { 'stale' } end
if record.phase == 'delivering' then return { 'gone' } end
local isAsSeen = record.phase == ARGV[5] and redis.call('HGET', KEYS[1], 'attemptCount') == ARGV[6]
if ARGV[5] ~= '' and not isAsSeen then return { 'gone' } end
set('token', ARGV[3], 'node', ARGV[4])
record.node = ARGV[4]
for from = 2, 3 do
  local score = redis.call('ZSCORE', KEYS[from], id)
  if score then
    redis.call('ZREM', KEYS[from], id)
    redis.call('ZADD', KEYS[from + 5], score, id)
  end
end
return whole()
