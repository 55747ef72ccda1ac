-- The record of one upload, for the scripts that read or change it. All of them are called with
-- KEYS 1 record 2 due 3 expires 4 totals 5 news 6 usage   ARGV 1 id 2 the node whose indexes `due` and `expires` are
-- and give a list whose first item is a word: `upload` (with all fields), `moved` (with the upload's node, whose keys the
-- next call must use), `broken` (with the rule that the caller broke), or a word of the script's own.
-- Fields: about (JSON of the immutable fields) node phase offset length token digests expiresAt (by the caller's clock)
-- endsAt (the same by this server's clock) worker claimedUntil claimMs dueAt heldBack trailers lost undelivered answer
-- answerAt route client counted (what `usage` counts of it) attemptCount attempt:N (a flag and JSON; `i` is open and in part, all
-- others `o`). Scripts never read the JSON.
local id, key, record = ARGV[1], KEYS[1], {}
local FIELDS = { 'node', 'phase', 'offset', 'length', 'token', 'digests', 'endsAt', 'worker', 'claimedUntil', 'claimMs', 'dueAt', 'answerAt',
  'route', 'client', 'counted' }
local HOLDS_BYTES = { receiving = true, complete = true, delivering = true, undelivered = true }

-- Reads the fields that decisions need; false when the upload is unknown.
local function read()
  local values = redis.call('HMGET', key, unpack(FIELDS))
  for at, name in ipairs(FIELDS) do record[name] = values[at] or nil end
  return record.node ~= nil
end

-- Reads the record; gives the result to return at once when the upload is unknown or on another node.
local function refusal(unknown)
  if not read() then return { unknown } end
  if record.node ~= ARGV[2] then return { 'moved', record.node } end
end

local function set(...) redis.call('HSET', key, ...) end

-- The room that an upload takes in the spool, and how much of it is not written yet; nothing when it has ended. The same as
-- `roomOf` in usage.ts.
local FIRST_BYTES, STEP_BYTES = 65536, 4194304
local function nextRoom(offset)
  if offset >= STEP_BYTES then return (math.floor(offset / STEP_BYTES) + 1) * STEP_BYTES end
  local bytes = FIRST_BYTES
  while bytes <= offset do bytes = bytes * 2 end
  return bytes
end

local function room(phase, offset, length)
  if not HOLDS_BYTES[phase] then return nil end
  if phase ~= 'receiving' then return offset, 0 end
  local bytes = length and tonumber(length) or nextRoom(offset)
  return bytes, bytes - offset
end

local function counted()
  local bytes, unwritten, node = string.match(record.counted or '', '^(%d+) (%d+) (.*)$')
  return tonumber(bytes), tonumber(unwritten), node
end

local function addTo(hash, field, delta)
  if delta == 0 then return end
  if redis.call('HINCRBY', hash, field, string.format('%.0f', delta)) == 0 then redis.call('HDEL', hash, field) end
end

local function addUsage(uploads, bytes, unwritten, node)
  local groups = { '' }
  if record.route then table.insert(groups, ':route:' .. record.route) end
  if record.client then table.insert(groups, ':client:' .. record.client) end
  for _, group in ipairs(groups) do
    addTo(KEYS[6], 'uploads' .. group, uploads)
    addTo(KEYS[6], 'bytes' .. group, bytes)
  end
  addTo(KEYS[6], 'unwritten:' .. node, unwritten)
  addTo(KEYS[4], 'reserved', unwritten)
end

local function noteCounted(bytes, unwritten)
  local now = bytes and string.format('%.0f %.0f %s', bytes, unwritten, record.node) or nil
  if now == record.counted then return end
  if now then set('counted', now) else redis.call('HDEL', key, 'counted') end
  record.counted = now
end

-- Counts what the record says now in place of what was counted of it before, so that a repeated step changes nothing.
local function account()
  local bytes, unwritten = room(record.phase, tonumber(record.offset), record.length)
  local before, unwrittenBefore, nodeBefore = counted()
  if bytes and before and nodeBefore == record.node then
    addUsage(0, bytes - before, unwritten - unwrittenBefore, record.node)
  else
    if before then addUsage(-1, -before, -unwrittenBefore, nodeBefore) end
    if bytes then addUsage(1, bytes, unwritten, record.node) end
  end
  noteCounted(bytes, unwritten)
end

-- The limit that the upload would exceed with this room, if it had that room before: an upload of an older version has room as
-- well that is not counted yet. ARGV `at` and the six after it are the limits, or '': uploads and bytes of its client, of its
-- route, and of all, and the bytes that may be unwritten on its node.
local function excess(at, bytes, unwritten, before, unwrittenBefore)
  local uploads = before and 0 or 1
  local function exceeds(field, more, limit)
    return limit ~= '' and more > 0 and tonumber(redis.call('HGET', KEYS[6], field) or 0) + more > tonumber(limit)
  end
  local function ofGroup(name, suffix, limits)
    if exceeds('uploads' .. suffix, uploads, ARGV[limits]) then return name .. '-uploads' end
    if exceeds('bytes' .. suffix, bytes - (before or 0), ARGV[limits + 1]) then return name .. '-bytes' end
  end
  return record.client and ofGroup('client', ':client:' .. record.client, at)
    or record.route and ofGroup('route', ':route:' .. record.route, at + 2)
    or ofGroup('all', '', at + 4)
    or exceeds('unwritten:' .. record.node, unwritten - (unwrittenBefore or 0), ARGV[at + 6]) and 'unwritten-bytes'
    or nil
end

local function whole()
  account()
  return { 'upload', redis.call('HGETALL', KEYS[1]) }
end

local function broken(rule) return { 'broken', rule } end

local function countBytes(delta)
  if delta ~= 0 then redis.call('HINCRBY', KEYS[4], 'bytes', string.format('%.0f', delta)) end
end

local function enter(phase)
  if record.phase == phase then return end
  redis.call('HINCRBY', KEYS[4], record.phase, -1)
  redis.call('HINCRBY', KEYS[4], phase, 1)
  if HOLDS_BYTES[record.phase] and not HOLDS_BYTES[phase] then countBytes(-tonumber(record.offset)) end
  set('phase', phase)
  record.phase = phase
end

-- Must be the first write where an upload ends: when memory is full, Redis refuses a script whose first write needs memory,
-- and ending uploads is what frees it.
local function neverDue() redis.call('ZREM', KEYS[2], id) end

local function dueAt(score) redis.call('ZADD', KEYS[2], score, id) end

local function expiresAt(score) redis.call('ZADD', KEYS[3], score, id) end

-- Enters a phase in which the delivery is settled, and notifies all waiting processes.
local function settle(phase)
  enter(phase)
  redis.call(PUBLISH, KEYS[5], 'settled ' .. id)
end

local function later(one, other) return tonumber(one) > tonumber(other) and one or other end

-- True if the upload waits for an answer and this attempt is its newest: the attempt's worker may record its end until a newer
-- one begins, whichever worker has the claim. An attempt that is open and in part needs a claim first.
local function isNewest(number)
  if record.phase ~= 'complete' and record.phase ~= 'delivering' and record.phase ~= 'undelivered' then return false end
  if number == '' then return false end
  local known = redis.call('HGET', KEYS[1], 'attempt:' .. number)
  if not known or string.sub(known, 1, 1) == 'i' then return false end
  return redis.call('HEXISTS', KEYS[1], 'attempt:' .. string.format('%.0f', number + 1)) == 0
end

local function isHeldBy(worker) return record.phase == 'delivering' and record.worker == worker end
