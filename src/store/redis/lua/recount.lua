-- Counts the uploads of a bucket anew, after versions or operators that changed records and not what is counted of them.
-- KEYS as in parts/record.lua, but 1 ids   ARGV 1 '' 2 '' 3 what precedes an id in the key of its record 4 how many uploads at most
-- Gives how many there are.
-- include parts/record
local ids = redis.call('ZRANGE', KEYS[1], 0, -1)
if #ids > tonumber(ARGV[4]) then return #ids end
redis.call('UNLINK', KEYS[4], KEYS[6])
for _, each in ipairs(ids) do
  key, record = ARGV[3] .. each, {}
  if read() then
    record.counted = nil
    redis.call('HINCRBY', KEYS[4], record.phase, 1)
    if HOLDS_BYTES[record.phase] then countBytes(tonumber(record.offset)) end
    account()
  end
end
return #ids
