-- Stores the announcement of a node with its time.
-- KEYS 1 nodes   ARGV 1 name 2 '1' when it is leaving, else '0' 3 url
-- Gives 1.
-- include parts/time
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %s %s', serverTime(), ARGV[2], ARGV[3]))
return 1
