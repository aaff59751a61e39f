-- The valid sessions of a tag.
--
-- KEYS   [1] generation, [2] index
-- ARGV   [1] what the keys of the tag's records begin with
-- reply  now (stamp), and for each session, oldest first: id, version, created, end of its lifetime (stamps),
--        milliseconds until it ends unless it is used, meta
local reply = {now}
for i, known in ipairs(sessions_of_tag(KEYS[2], ARGV[1], generation_at(KEYS[1]))) do
  local left = redis.call('PTTL', ARGV[1] .. known.id)
  reply[i + 1] = {known.id, known.version, known.created, known.ends, left, known.meta}
end
return reply
