-- Expired uploads, each handed out to one caller at a time, and again after a while if it was not removed.
-- KEYS 1 expires   ARGV 1 until when, by this server's clock 2 how long the caller has for them, in milliseconds 3 how many
-- Gives their ids.
-- include parts/time
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])
-- Removing must work when memory is full: a first write that needs no memory lets the others pass.
if #ids > 0 then redis.call('ZREM', KEYS[1], '') end
local again = serverTime() + ARGV[2]
for _, id in ipairs(ids) do redis.call('ZADD', KEYS[1], 'XX', string.format('%.0f', again), id) end
return ids
