-- receiving → invalid, unless a newer lease was taken. KEYS, ARGV and results as in parts/record.lua, and
-- ARGV 3 token 4 'lost' or ''
-- Gives `upload`, `stale` or `gone`.
-- include parts/record
local refused = refusal('gone')
if refused then return refused end
if tonumber(ARGV[3]) < tonumber(record.token) then return { 'stale' } end
if record.phase == 'invalid' and ARGV[3] == record.token then return whole() end
if record.phase ~= 'receiving' then return { 'gone' } end
neverDue()
set('token', ARGV[3])
if ARGV[4] ~= '' then set('lost', '1') end
settle('invalid')
expiresAt('-inf')
return whole()
