-- Says what this installation is, and makes it when there is none.
-- KEYS 1 store   ARGV 1 id for a new one 2 buckets 3 format
-- Gives id, buckets, format, and 1 when it is new: made by this call, or by one before with the same id.
local function known() return redis.call('HMGET', KEYS[1], 'id', 'buckets', 'format') end
if redis.call('HSETNX', KEYS[1], 'id', ARGV[1]) == 1 then
  redis.call('HSET', KEYS[1], 'buckets', ARGV[2], 'format', ARGV[3])
end
local found = known()
return { found[1], found[2], found[3], found[1] == ARGV[1] and 1 or 0 }
