-- Give a session another id of its tag, and another meta.
--
-- Invariant. One of the two ids leads to the session, at any time.
--
-- KEYS   [1] record, [2] generation, [3] index, [4] the record to be
-- ARGV   [1] the generation that the caller knows, [2] idle in milliseconds, [3] id, [4] the id to be, [5] meta
-- reply  1, kind, when it ends (stamp); nothing where there is none; -1: there is one already under the id to be
local generation = generation_at(KEYS[2])
local known = generation == ARGV[1] and session(KEYS[1], generation)
if not known then return false end
if redis.call('EXISTS', KEYS[4]) == 1 then return {-1} end
redis.call('RENAME', KEYS[1], KEYS[4])
redis.call('HSET', KEYS[4], 'm', ARGV[5])
redis.call('ZREM', KEYS[3], ARGV[3])
redis.call('ZADD', KEYS[3], whole(known.ends), ARGV[4])
outlive(KEYS[3], math.ceil((known.ends - now) / 1000))
local expires = begin_idle(KEYS[4], known.ends, ARGV[2])
return {1, known.kind, expires}
