-- End all sessions of a tag, or all but one.
--
-- Theory of operation. The records that the index knows are deleted. Unless one is kept the generation counts up as
-- well, which ends what the index does not know: an index can be lost, and a generation can't come back (sessions.lua).
-- A tag without a generation has no valid session, and needs no other one.
--
-- KEYS   [1] generation, [2] index
-- ARGV   [1] what the keys of the tag's records begin with, [2] '' or '=' and the id to keep, and then ids to end also
--        where the index does not know them
-- reply  id, kind of each that is ended, oldest first
local records, keep = ARGV[1], ARGV[2]
local generation = generation_at(KEYS[1])
local ended = {}

local function finish(known)
  redis.call('DEL', records .. known.id)
  redis.call('ZREM', KEYS[2], known.id)
  ended[#ended + 1] = known.id
  ended[#ended + 1] = known.kind
end

for _, known in ipairs(sessions_of_tag(KEYS[2], records, generation)) do
  if '=' .. known.id ~= keep then finish(known) end
end
for i = 3, #ARGV do
  local known = session(records .. ARGV[i], generation)
  if known then
    known.id = ARGV[i]
    finish(known)
  end
end
if keep == '' then
  redis.call('DEL', KEYS[2]) -- a write that a server without memory allows, and then it allows the next one too
  if generation == '0' then
    redis.call('DEL', KEYS[1])
  else
    redis.call('SET', KEYS[1], whole(math.max(now, tonumber(generation) + 1)), 'KEEPTTL')
  end
end
return ended
