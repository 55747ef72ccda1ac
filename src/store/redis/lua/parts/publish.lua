-- Tells every process that listens to a bucket's channel: `ask`, `free` or `settled`.
local function publish(channel, word, id)
  redis.call(PUBLISH, channel, word .. ' ' .. id)
end
