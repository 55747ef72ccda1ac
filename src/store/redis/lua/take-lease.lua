-- Draws a ticket for an upload's lease, or uses one that was drawn before. Grants the lease when the request is first in its
-- process's queue and no other process holds the lease, or its holder may be passed over. A granted ticket is the token that
-- every commit must carry: older ones are refused from then on.
-- KEYS 1 lease 2 record of the upload 3 channel
-- ARGV 1 id 2 process 3 ticket, '' draws one 4 '1' when first in its queue 5 ms of a lease 6 ms of grace 7 ms to keep an unused lease
-- 8 'to-write' or 'to-end'
-- Gives 'granted', 'asked' (granted, but a newer request waits), 'stale' (a newer request had it) or 'held'; the ticket; and
-- for 'held' the ms until the holder may be passed over.
-- include parts/time
-- include parts/publish
local now = serverTime()
local known = redis.call('HMGET', KEYS[1], 'last', 'granted', 'process', 'until', 'asked', 'pass')
local last, process, asked = tonumber(known[1] or 0), known[3], tonumber(known[5] or 0)
local granted = math.max(tonumber(known[2] or 0), tonumber(redis.call('HGET', KEYS[2], 'token') or 0))

-- At least the time, so that a ticket that the server lost, with its last writes or in a backup, is not drawn again.
local ticket = tonumber(ARGV[3]) or math.max(math.max(last, granted) + 1, now)
if ticket <= granted then return { 'stale', ticket, 0 } end
-- Ending an upload frees memory, so it must work when memory is full: a first write that needs none lets the others pass.
if ARGV[8] == 'to-end' then redis.call('HDEL', KEYS[1], '') end
redis.call('HSET', KEYS[1], 'last', math.max(last, ticket))
redis.call('PEXPIRE', KEYS[1], ARGV[7])

local isTurn = ARGV[4] == '1'
local isOwn = process == ARGV[2]
-- At most the grace time from now, since the clock may be that of another server than before.
local graceEnd = math.min(tonumber(known[6] or math.huge), now + ARGV[6])
local passAt = math.min(tonumber(known[4] or 0), graceEnd)
if not isTurn or (process and not isOwn and passAt > now) then
  redis.call('HSET', KEYS[1], 'asked', math.max(asked, ticket))
  if isTurn and not isOwn then
    redis.call('HSET', KEYS[1], 'pass', graceEnd)
    publish(KEYS[3], 'ask', ARGV[1] .. ' ' .. ticket)
  end
  return { 'held', ticket, passAt - now }
end

redis.call('HSET', KEYS[1], 'granted', ticket, 'process', ARGV[2], 'until', now + ARGV[5])
if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('HSET', KEYS[2], 'token', ticket) end
-- A holder that was passed over may not know it.
if process and not isOwn then publish(KEYS[3], 'ask', ARGV[1] .. ' ' .. ticket) end
if asked <= ticket then
  redis.call('HDEL', KEYS[1], 'pass')
  return { 'granted', ticket, 0 }
end
redis.call('HSET', KEYS[1], 'pass', now + ARGV[6])
return { 'asked', ticket, 0 }
