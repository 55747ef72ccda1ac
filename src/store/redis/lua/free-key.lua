-- Forgets that an upload has a client's key. Nothing happens when another one has it.
-- KEYS 1 the key's holder   ARGV 1 id
-- Gives 1 when it had it.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('UNLINK', KEYS[1])
