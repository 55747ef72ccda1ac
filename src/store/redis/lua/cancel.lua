-- Any phase → cancelled. KEYS, ARGV and results as in parts/record.lua.
-- Gives `upload` or `gone`.
-- include parts/record
local refused = refusal('gone')
if refused then return refused end
neverDue()
settle('cancelled')
expiresAt('-inf')
return whole()
