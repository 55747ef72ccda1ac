-- Removes an upload. KEYS, ARGV and results as in parts/record.lua, and
-- KEYS 6 ids 7 chunks 8 answer body 9 lease
-- Gives the phase that it had, or `gone`.
-- include parts/record
local refused = refusal('gone')
if refused then return refused end
redis.call('UNLINK', KEYS[1], KEYS[7], KEYS[8], KEYS[9])
redis.call('ZREM', KEYS[2], id)
redis.call('ZREM', KEYS[3], id)
redis.call('ZREM', KEYS[6], id)
redis.call('HINCRBY', KEYS[4], record.phase, -1)
if HOLDS_BYTES[record.phase] then countBytes(-tonumber(record.offset)) end
redis.call(PUBLISH, KEYS[5], 'settled ' .. id)
return { record.phase }
