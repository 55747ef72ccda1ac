-- Creates an upload. KEYS, ARGV and results as in parts/record.lua, and
-- KEYS 7 ids   ARGV 3 about 4 length or '' 5 digests or '' 6 expiresAt 7 the same by this server's clock 8 route
-- 9 client or '' 10-16 limits as in `excess`
-- Gives `created`, `exists`, or `exceeds` with the limit that leaves no room.
-- include parts/record
if redis.call('EXISTS', KEYS[1]) == 1 then return { 'exists' } end
record = { node = ARGV[2], phase = 'receiving', offset = '0', route = ARGV[8] }
if ARGV[4] ~= '' then record.length = ARGV[4] end
if ARGV[9] ~= '' then record.client = ARGV[9] end
local exceeded = excess(10, room('receiving', 0, record.length))
if exceeded then return { 'exceeds', exceeded } end
set('about', ARGV[3], 'node', ARGV[2], 'phase', 'receiving', 'offset', 0, 'token', 0, 'attemptCount', 0, 'route', ARGV[8])
if record.client then set('client', record.client) end
set('expiresAt', ARGV[6], 'endsAt', ARGV[7])
if ARGV[4] ~= '' then set('length', ARGV[4]) end
if ARGV[5] ~= '' then set('digests', ARGV[5]) end
expiresAt(ARGV[7])
redis.call('ZADD', KEYS[7], 0, id)
redis.call('HINCRBY', KEYS[4], 'receiving', 1)
account()
return { 'created' }
