-- Counts the uploads of a bucket anew, after versions or operators that changed records and not what is counted of them.
-- KEYS as in parts/record.lua, but 1 ids   ARGV 1 '' 2 '' 3 what precedes an id in the key of its record 4 how many uploads at most
-- Gives how many there are.
-- include parts/record
local ids = redis.call('ZRANGE', KEYS[1], 0, -1)
if #ids > tonumber(ARGV[4]) then return #ids end
redis.call('UNLINK', KEYS[4], KEYS[6])
-- Summed up here first: writes for each upload would keep Redis from other work for seconds.
local phases, held, uploads, bytesOf, unwrittenOf = {}, {}, {}, {}, {}
local function add(sums, name, number) sums[name] = (sums[name] or 0) + number end
for _, each in ipairs(ids) do
  key, record = ARGV[3] .. each, {}
  if read() then
    add(phases, record.phase, 1)
    local offset = tonumber(record.offset)
    local bytes, unwritten = room(record.phase, offset, record.length)
    if bytes then
      add(held, 'bytes', offset)
      local name = (record.route or '') .. '\n' .. (record.client or '')
      add(uploads, name, 1)
      add(bytesOf, name, bytes)
      add(unwrittenOf, record.node, unwritten)
    end
    noteCounted(bytes, unwritten)
  end
end
for phase, number in pairs(phases) do redis.call('HINCRBY', KEYS[4], phase, number) end
countBytes(held.bytes or 0)
for name, number in pairs(uploads) do
  local route, client = string.match(name, '^(.*)\n(.*)$')
  record = { route = route ~= '' and route or nil, client = client ~= '' and client or nil }
  addUsage(number, bytesOf[name], 0, '')
end
record = {}
for node, number in pairs(unwrittenOf) do addUsage(0, 0, number, node) end
return #ids
