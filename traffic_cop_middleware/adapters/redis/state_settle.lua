-- Take out of the outbox what the documents have. An item that has no newer version since may end from now on.
--
-- KEYS   [1] outbox, [2] queued
-- ARGV   [1] group, [2] what the keys of items begin with, [3] milliseconds that a tombstone lives, then for each entry:
--        id, place, version
-- reply  nothing
for i = 4, #ARGV, 3 do
  local place = ARGV[i + 1]
  redis.pcall('XACK', KEYS[1], ARGV[1], ARGV[i]) -- without the group, too
  redis.call('XDEL', KEYS[1], ARGV[i])
  local item = read(ARGV[2] .. place)
  if not item then
    redis.call('HDEL', KEYS[2], place)
  elseif item.version == tonumber(ARGV[i + 2]) and redis.call('HDEL', KEYS[2], place) == 1 then
    let_end(ARGV[2] .. place, item.deleted, item.ends, ARGV[3])
  end
end
return 0
