-- Checks that Redis accepts writes, and reads its time and the id of the installation.
-- KEYS 1 store   ARGV none
-- Gives seconds, microseconds, and the id; no id when the installation does not exist.
local time = redis.call('TIME')
local id = redis.call('HGET', KEYS[1], 'id')
if not id then return { time[1], time[2] } end
redis.call('HSET', KEYS[1], 'seen', time[1])
return { time[1], time[2], id }
