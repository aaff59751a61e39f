-- A session as it stands. It writes nothing, and begins with no other text: it runs for every request.
--
-- KEYS   [1] record, [2] generation
-- ARGV   [1] the generation that the caller knows
-- reply  milliseconds until it ends unless it is used; now, in seconds and microseconds; and its hash (sessions.lua);
--        nothing where there is none; 0 where something else stands there
if redis.pcall('GET', KEYS[2]) ~= ARGV[1] then return false end
local fields = redis.pcall('HGETALL', KEYS[1])
if fields.err then return 0 end
if #fields == 0 then return false end
local time = redis.call('TIME')
return {redis.call('PTTL', KEYS[1]), time[1], time[2], fields}
