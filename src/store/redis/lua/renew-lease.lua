-- Extends a lease, unless a newer one was granted. Restores a lease that the server lost with its last writes.
-- KEYS 1 lease 2 record of the upload
-- ARGV 1 process 2 ticket 3 ms of a lease 4 ms to keep an unused lease
-- Gives 'held', 'asked' (held, but a newer request waits), 'taken-over' or 'lost' (neither lease nor upload is known).
-- include parts/time
local ticket = tonumber(ARGV[2])
local known = redis.call('HMGET', KEYS[1], 'last', 'granted', 'process', 'asked')
local hasRecord = redis.call('EXISTS', KEYS[2]) == 1
if not known[2] and not hasRecord then return 'lost' end
local granted = math.max(tonumber(known[2] or 0), tonumber(redis.call('HGET', KEYS[2], 'token') or 0))
if granted > ticket or (known[3] and known[3] ~= ARGV[1]) then return 'taken-over' end

local last = math.max(tonumber(known[1] or 0), ticket)
redis.call('HSET', KEYS[1], 'last', last, 'granted', ticket, 'process', ARGV[1], 'until', serverTime() + ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
if hasRecord then redis.call('HSET', KEYS[2], 'token', ticket) end
return tonumber(known[4] or 0) > ticket and 'asked' or 'held'
