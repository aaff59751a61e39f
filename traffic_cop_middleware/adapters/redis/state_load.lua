-- Items as they stand (state.lua), and the time by which to see which of them have ended.
--
-- KEYS   items of one partition
-- reply  now (microseconds), then a text for each, or nil
local time = redis.call('TIME')
local found = redis.call('MGET', unpack(KEYS))
table.insert(found, 1, time[1] * 1000000 + time[2])
return found
