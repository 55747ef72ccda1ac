-- Removes a client's key from an upload; does nothing when another upload has it.
-- KEYS 1 the key's holder   ARGV 1 id
-- Gives 1 when the upload had the key, else 0.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('UNLINK', KEYS[1])
