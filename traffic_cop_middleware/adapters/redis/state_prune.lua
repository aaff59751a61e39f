-- Take out of an index what is there no longer: it has ended, or was evicted.
--
-- KEYS   [1] index
-- ARGV   [1] what the keys of its items begin with, then keys
-- reply  nothing
for i = 2, #ARGV do
  if redis.call('EXISTS', ARGV[1] .. ARGV[i]) == 0 then redis.call('ZREM', KEYS[1], ARGV[i]) end
end
return 0
