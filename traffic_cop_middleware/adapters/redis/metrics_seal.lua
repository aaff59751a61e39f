-- Keep a window's figures as one, if they are made of the parts of all who have written. It holds until one writes.
--
-- KEYS   [1] the window
-- ARGV   [1] the figures, [2] of how many workers
-- reply  1, or 0 where there are others by now, or no such window
local workers = redis.call('HLEN', KEYS[1]) - redis.call('HEXISTS', KEYS[1], '=')
if workers == 0 or workers ~= tonumber(ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], '=', ARGV[1])
return 1
