-- Publishes `ask`, `free` or `settled` to all processes that subscribe to a bucket's channel.
local function publish(channel, word, id)
  redis.call(PUBLISH, channel, word .. ' ' .. id)
end
