-- Put dead letters back into the outbox.
--
-- KEYS   [1] outbox, [2] queued, [3] dead
-- ARGV   their ids
-- reply  how many there were
local found = 0
for _, id in ipairs(ARGV) do
  local letter = redis.call('XRANGE', KEYS[3], id, id)[1]
  if letter then
    local place = letter[2][2]
    redis.call('HSET', KEYS[2], place, redis.call('XADD', KEYS[1], '*', 'place', place))
    redis.call('XDEL', KEYS[3], id)
    found = found + 1
  end
end
return found
