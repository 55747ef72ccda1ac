-- Creates an upload. KEYS, ARGV and results as in parts/record.lua, and
-- KEYS 6 ids   ARGV 3 about 4 length or '' 5 digests or '' 6 expiresAt 7 the same by this server's clock
-- Gives `created`, or `exists`.
-- include parts/record
if redis.call('EXISTS', KEYS[1]) == 1 then return { 'exists' } end
set('about', ARGV[3], 'node', ARGV[2], 'phase', 'receiving', 'offset', 0, 'token', 0, 'attemptCount', 0)
set('expiresAt', ARGV[6], 'endsAt', ARGV[7])
if ARGV[4] ~= '' then set('length', ARGV[4]) end
if ARGV[5] ~= '' then set('digests', ARGV[5]) end
expiresAt(ARGV[7])
redis.call('ZADD', KEYS[6], 0, id)
redis.call('HINCRBY', KEYS[4], 'receiving', 1)
return { 'created' }
