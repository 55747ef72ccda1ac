-- complete, delivering or undelivered → invalid, because stored bytes are lost. KEYS, ARGV and results as in
-- parts/record.lua. Gives `upload` or `gone`.
-- include parts/record
local refused = refusal('gone')
if refused then return refused end
if record.phase == 'invalid' then return whole() end
local needsBytes = record.phase == 'complete' or record.phase == 'delivering' or record.phase == 'undelivered'
if not needsBytes then return { 'gone' } end
neverDue()
set('lost', '1')
settle('invalid')
expiresAt('-inf')
return whole()
