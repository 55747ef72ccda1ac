-- Records that a client was informed of an unknown outcome, or that it has asked again since. KEYS, ARGV and results as in
-- parts/record.lua, and ARGV 3 number of the newest attempt 4 why it is undelivered 5 the new value
-- Gives `upload` or `stale`.
-- include parts/record
local refused = refusal('stale')
if refused then return refused end
if record.phase ~= 'undelivered' or not isNewest(ARGV[3]) then return { 'stale' } end
local known = redis.call('HGET', KEYS[1], 'undelivered')
if known == ARGV[5] then return whole() end
if known ~= ARGV[4] then return { 'stale' } end
set('undelivered', ARGV[5])
return whole()
