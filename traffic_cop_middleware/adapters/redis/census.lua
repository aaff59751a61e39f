-- Count the workers that share this Redis: a sorted set of heartbeats on the server's clock.
-- KEYS[1] the set; ARGV[1] this worker, ARGV[2] seconds after which a silent one is taken for dead. Reply: their number.
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. (now - tonumber(ARGV[2])))
redis.call('EXPIRE', KEYS[1], 3600)
return redis.call('ZCARD', KEYS[1])
