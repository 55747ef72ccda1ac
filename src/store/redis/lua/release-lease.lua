-- Releases a lease and notifies waiting requests. Does nothing when another process has the lease by now.
-- KEYS 1 lease 2 channel
-- ARGV 1 id 2 process 3 ticket 4 ms to keep the last ticket, which for an unknown upload is stored nowhere else
-- Gives 1 when it was released, else 0.
-- include parts/publish
local known = redis.call('HMGET', KEYS[1], 'granted', 'process', 'asked')
if known[1] ~= ARGV[3] or known[2] ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[1], 'process', 'until', 'pass')
redis.call('PEXPIRE', KEYS[1], ARGV[4])
if tonumber(known[3] or 0) > tonumber(ARGV[3]) then publish(KEYS[2], 'free', ARGV[1]) end
return 1
