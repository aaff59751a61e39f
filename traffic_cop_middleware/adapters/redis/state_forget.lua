-- Drop an item, if it is at a version and the documents have it.
--
-- KEYS   [1] item, [2] index, [3] ends, [4] queued
-- ARGV   [1] place, [2] key, [3] version
-- reply  1, or 0 where it stays
local item = read(KEYS[1])
if not item or item.version ~= tonumber(ARGV[3]) or redis.call('HEXISTS', KEYS[4], ARGV[1]) == 1 then return 0 end
redis.call('DEL', KEYS[1])
note(KEYS[2], KEYS[3], ARGV[1], ARGV[2], nil, true)
return 1
