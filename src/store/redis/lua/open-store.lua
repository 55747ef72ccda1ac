-- Describes this installation, and creates it when there is none.
-- KEYS 1 store
-- ARGV 1 id for a new one 2 buckets 3 format 4 name of the caller's spool, '' for none 5 the store that the spool's mark names
--   6 '1': the caller used the spool with store 5, whose data is lost
-- Gives id, buckets, format, and 1 when the store is new: created by this call, or by an earlier one with the same id. Then
-- ARGV 5 of the last call that left the spool unmarked for this store; nothing when the spool is marked.
local function known() return redis.call('HMGET', KEYS[1], 'id', 'buckets', 'format') end
if redis.call('HSETNX', KEYS[1], 'id', ARGV[1]) == 1 then
  redis.call('HSET', KEYS[1], 'buckets', ARGV[2], 'format', ARGV[3])
end
local found = known()
local isNew = found[1] == ARGV[1]
local unfinished = false
if ARGV[4] ~= '' then
  local field = 'unmarked:' .. ARGV[4]
  if isNew or ARGV[6] == '1' then redis.call('HSET', KEYS[1], field, ARGV[5]) end
  unfinished = redis.call('HGET', KEYS[1], field)
end
return { found[1], found[2], found[3], isNew and 1 or 0, unfinished }
