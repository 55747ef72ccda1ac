-- The record of one upload, for the scripts that read or change it. All of them are called with
-- KEYS 1 record 2 due 3 expires 4 totals 5 news   ARGV 1 id 2 the node whose indexes `due` and `expires` are
-- and give a list whose first item is a word: `upload` (with all fields), `moved` (with the upload's node, whose keys the
-- next call must use), `broken` (with the rule that the caller broke), or a word of the script's own.
-- Fields: about (JSON of the immutable fields) node phase offset length token digests expiresAt (by the caller's clock)
-- endsAt (the same by this server's clock) worker claimedUntil claimMs dueAt heldBack trailers lost undelivered answer
-- answerAt attemptCount attempt:N (a flag and JSON; `i` is open and in part, all others `o`). Scripts never read the JSON.
local id, record = ARGV[1], {}
local FIELDS = { 'node', 'phase', 'offset', 'length', 'token', 'digests', 'endsAt', 'worker', 'claimedUntil', 'claimMs', 'dueAt', 'answerAt' }
local HOLDS_BYTES = { receiving = true, complete = true, delivering = true, undelivered = true }

-- Reads the fields that decisions need; gives the result to return at once when the upload is unknown or on another node.
local function refusal(unknown)
  local values = redis.call('HMGET', KEYS[1], unpack(FIELDS))
  if not values[1] then return { unknown } end
  for at, name in ipairs(FIELDS) do record[name] = values[at] end
  if record.node ~= ARGV[2] then return { 'moved', record.node } end
end

local function set(...) redis.call('HSET', KEYS[1], ...) end

local function whole() return { 'upload', redis.call('HGETALL', KEYS[1]) } end

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
