-- Keep a window's figures as one ("="), if nobody has written since it was read. It holds until somebody does.
--
-- KEYS   [1] the window
-- ARGV   [1] the figures, [2] the window's stamp as it was read
-- reply  1, or 0 where somebody has written since, or there is no such window
if redis.call('HGET', KEYS[1], '#') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], '=', ARGV[1])
return 1
