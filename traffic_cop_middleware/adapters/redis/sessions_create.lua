-- Make a session, and room for it.
--
-- Invariant. With a limit, a tag has no more valid sessions than that, however many are made at the same time: counting
-- and making are this one script, and so is ending the one that it replaces, which counts for nothing. A record that
-- exists is never written over.
--
-- KEYS   [1] record, [2] generation, [3] index
-- ARGV   [1] what the keys of the tag's records begin with, [2] id, [3] kind, [4] meta, [5] idle and [6] lifetime in
--        milliseconds, [7] limit or '', [8] '1' to end the oldest, [9] the id of the one that it replaces or '',
--        and then name, text of each datum
-- reply  1, generation, when it ends (stamp), a list of id, kind of each that made room, and the kind of the one that
--        it replaced where there was one; or 0, generation: not admitted; or -1: there is one
local record, generation_key, index = KEYS[1], KEYS[2], KEYS[3]
local records, id, kind, lifetime, limit = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[6]), tonumber(ARGV[7])
if redis.call('EXISTS', record) == 1 then return {-1} end

local generation, ended = generation_at(generation_key), {}
if limit and limit < 1 then return {0, tonumber(generation)} end
-- The first write is one that a server without memory refuses, before anything is ended for nothing.
if generation == '0' then generation = whole(now) end
redis.call('SET', generation_key, generation, 'KEEPTTL')
redis.call('ZREMRANGEBYSCORE', index, '-inf', whole(now))
local former = ARGV[9] ~= '' and session(records .. ARGV[9], generation)
if limit then
  local others = {}
  for _, known in ipairs(sessions_of_tag(index, records, generation)) do
    if not former or known.id ~= ARGV[9] then others[#others + 1] = known end
  end
  local over = #others - limit + 1
  if over > 0 and ARGV[8] ~= '1' then return {0, tonumber(generation)} end
  for i = 1, over do
    redis.call('DEL', records .. others[i].id)
    redis.call('ZREM', index, others[i].id)
    ended[#ended + 1] = others[i].id
    ended[#ended + 1] = others[i].kind
  end
end
if former then
  redis.call('DEL', records .. ARGV[9])
  redis.call('ZREM', index, ARGV[9])
end

outlive(generation_key, lifetime)
local size, stamp, ends = 0, whole(now), now + lifetime * 1000
for i = 10, #ARGV, 2 do
  redis.call('HSET', record, ':' .. ARGV[i], ARGV[i + 1])
  size = size + #ARGV[i] + #ARGV[i + 1]
end
redis.call('HSET', record, 'g', generation, 'v', 1, 'c', stamp, 'e', whole(ends), 'r', 0, 't', stamp, 'n', whole(size),
  'k', kind, 'm', ARGV[4])
redis.call('ZADD', index, whole(ends), id)
outlive(index, lifetime)
local expires = begin_idle(record, ends, ARGV[5])
return {1, tonumber(generation), expires, ended, former and former.kind or nil}
