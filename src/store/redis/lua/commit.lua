-- Moves the offset, unless a newer lease was taken. KEYS, ARGV and results as in parts/record.lua, and
-- KEYS 7 chunks   ARGV 3 token 4 chunk's name or '' 5 its start 6 its size 7 length or '' 8 digests or ''
-- 9 'complete' or '' 10 heldBack or '' 11 expiresAt 12 the same by this server's clock
-- 13 trailers or '' 14 the chunk's checksum or '' 15-21 limits as in `excess`
-- Gives `upload`, `stale`, `gone`, or `exceeds` with the limit that leaves no room. Reads and writes nothing that grows with the upload.
-- include parts/record
local refused = refusal('gone')
if refused then return refused end
local token, name, start, size = ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local offset, complete = tonumber(record.offset), ARGV[9] == 'complete'

local last = name ~= '' and redis.call('LINDEX', KEYS[7], -1)
local lastStart, lastSize, lastName
if last then lastStart, lastSize, lastName = string.match(last, '^(%d+) (%d+) (%S+)') end
local isLast = name ~= '' and lastName == name

local function wasDoneBefore()
  if record.phase ~= 'complete' or record.dueAt or not complete or token ~= record.token then return false end
  if ARGV[7] ~= '' and ARGV[7] ~= record.length then return false end
  if name == '' then return true end
  if isLast then return ARGV[5] == lastStart and ARGV[6] == lastSize end
  return size == 0 and start == offset
end

if tonumber(token) < tonumber(record.token) then return { 'stale' } end
if wasDoneBefore() then return whole() end
if record.phase ~= 'receiving' then return { 'gone' } end

if name ~= '' then
  if start ~= (isLast and tonumber(lastStart) or offset) then return broken('a chunk does not begin at the offset') end
  if isLast and size < tonumber(lastSize) then return broken('a committed chunk cannot shrink') end
end
local moved = name ~= '' and start + size or offset
local length = record.length
if ARGV[7] ~= '' then length = ARGV[7] elseif not length and complete then length = string.format('%.0f', moved) end
if length then
  if record.length and length ~= record.length then return broken('the length is known and cannot change') end
  if moved > tonumber(length) then return broken('the offset would exceed the length') end
  if complete and moved < tonumber(length) then return broken('bytes are missing for completion') end
end

local bytes, unwritten = room(complete and 'complete' or 'receiving', moved, length)
local exceeded = excess(15, bytes, unwritten, room(record.phase, offset, record.length))
if exceeded then return { 'exceeds', exceeded } end

set('token', token, 'offset', string.format('%.0f', moved), 'expiresAt', ARGV[11], 'endsAt', ARGV[12])
if length and not record.length then set('length', length) end
record.offset, record.length = string.format('%.0f', moved), length
if ARGV[8] ~= '' and not record.digests then set('digests', ARGV[8]) end
local chunk = ARGV[5] .. ' ' .. ARGV[6] .. ' ' .. name .. (ARGV[14] ~= '' and ' ' .. ARGV[14] or '')
if isLast then
  redis.call('LSET', KEYS[7], -1, chunk)
elseif name ~= '' and size > 0 then
  redis.call('RPUSH', KEYS[7], chunk)
end
countBytes(moved - offset)
expiresAt(ARGV[12])
if complete then
  if ARGV[10] ~= '' then set('heldBack', ARGV[10]) end
  if ARGV[13] ~= '' then set('trailers', ARGV[13]) end
  enter('complete')
  dueAt('-inf')
end
return whole()
