-- Delete a session.
--
-- KEYS   [1] record, [2] generation, [3] index
-- ARGV   [1] id
-- reply  its kind; nothing where there is none
local known = session(KEYS[1], generation_at(KEYS[2]))
if not known then return false end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[3], ARGV[1])
return known.kind
