-- Spend a session's refresh token.
--
-- Theory of operation. r is the number of the current token. Presenting it makes the next one current. Presenting the
-- one before, within the grace, is what a client does that sent two requests at once or lost an answer: it gets the
-- current one. Any other was spent long ago, or never given out: somebody has a copy, and the session ends.
--
-- Invariant. Of the parallel ones that present the same token one makes a successor, and all others within the grace
-- are told of that one.
--
-- KEYS   [1] record, [2] generation, [3] index
-- ARGV   [1] the generation that the caller knows, [2] idle in milliseconds, [3] id, [4] the rotation presented,
--        [5] grace in microseconds
-- reply  'rotated' or 'replayed', rotation, its age in microseconds, 1 (2: the end is nearer now), kind, when it ends
--        (stamp); 'reused', kind; or 'gone'
local record = KEYS[1]
local generation = generation_at(KEYS[2])
local known = generation == ARGV[1] and session(record, generation)
if not known then return {'gone'} end

local function told(outcome, rotation, age)
  local expires, nearer = begin_idle(record, known.ends, ARGV[2])
  return {outcome, rotation, age, nearer and 2 or 1, known.kind, expires}
end

local presented = tonumber(ARGV[4])
if presented == known.rotation then
  redis.call('HSET', record, 'r', whole(known.rotation + 1), 't', whole(now))
  return told('rotated', known.rotation + 1, 0)
end
local age = math.max(0, now - known.rotated)
if presented >= 0 and presented == known.rotation - 1 and age < tonumber(ARGV[5]) then
  return told('replayed', known.rotation, age)
end
redis.call('DEL', record)
redis.call('ZREM', KEYS[3], ARGV[3])
return {'reused', known.kind}
