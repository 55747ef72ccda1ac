-- The last announcements of nodes.
-- KEYS 1 nodes   ARGV 1 the name of one; none for all
-- Gives this server's time in ms, then for each node its name and its announcement: the time, '1' when it is leaving or '0', its url.
-- include parts/time
local now = string.format('%.0f', serverTime())
if not ARGV[1] then return { now, unpack(redis.call('HGETALL', KEYS[1])) } end
local words = redis.call('HGET', KEYS[1], ARGV[1])
return words and { now, ARGV[1], words } or { now }
