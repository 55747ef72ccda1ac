-- Replaces fields of a record that are still as the caller has read them: the same values, encrypted with another key.
-- KEYS 1 record   ARGV 1 id, then for each field: name, known text, new text
-- Gives `resealed`, `unchanged` or `gone`.
if redis.call('EXISTS', KEYS[1]) == 0 then return 'gone' end
for at = 2, #ARGV, 3 do
  if redis.call('HGET', KEYS[1], ARGV[at]) ~= ARGV[at + 1] then return 'unchanged' end
end
for at = 2, #ARGV, 3 do redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 2]) end
return 'resealed'
