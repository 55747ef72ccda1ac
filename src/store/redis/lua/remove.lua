-- Removes an upload. KEYS, ARGV and results as in parts/record.lua, and
-- KEYS 7 ids 8 chunks 9 answer body 10 lease
-- Gives the phase that it had, or `gone`.
-- include parts/record
local refused = refusal('gone')
if refused then return refused end
redis.call('UNLINK', KEYS[1], KEYS[8], KEYS[9], KEYS[10])
redis.call('ZREM', KEYS[2], id)
redis.call('ZREM', KEYS[3], id)
redis.call('ZREM', KEYS[7], id)
redis.call('HINCRBY', KEYS[4], record.phase, -1)
local bytes, unwritten, node = counted()
if bytes then addUsage(-1, -bytes, -unwritten, node) end
if HOLDS_BYTES[record.phase] then countBytes(-tonumber(record.offset)) end
redis.call(PUBLISH, KEYS[5], 'settled ' .. id)
return { record.phase }
