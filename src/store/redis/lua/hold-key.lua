-- Gives a client's key to an upload, unless another upload has it.
-- KEYS 1 the key's holder   ARGV 1 id 2 id of a holder that is replaced, or '' 3 milliseconds until it is forgotten
-- Gives the id of the holder.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] and holder ~= ARGV[2] then return holder end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
return ARGV[1]
