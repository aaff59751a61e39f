-- Move an entry to the dead letters, unless it was settled or buried meanwhile. Its item stays queued, so it does not
-- end and is not forgotten. Where there are too many dead letters the oldest go, and their items may end.
--
-- KEYS   [1] outbox, [2] queued, [3] dead
-- ARGV   [1] group, [2] what the keys of items begin with, [3] milliseconds that a tombstone lives, [4] most dead
--        letters, [5] id, [6] place, [7] tries, [8] reason
-- reply  nothing
redis.pcall('XACK', KEYS[1], ARGV[1], ARGV[5])
if redis.call('XDEL', KEYS[1], ARGV[5]) == 0 then return 0 end
redis.call('XADD', KEYS[3], '*', 'place', ARGV[6], 'tries', ARGV[7], 'reason', ARGV[8])
local waits = redis.call('HGET', KEYS[2], ARGV[6])
if waits and string.find(waits, '^claimed') then redis.call('HSET', KEYS[2], ARGV[6], 'dead') end
for _ = 1, 10 do
  if redis.call('XLEN', KEYS[3]) <= tonumber(ARGV[4]) then break end
  local oldest = redis.call('XRANGE', KEYS[3], '-', '+', 'COUNT', 1)[1]
  local place = oldest[2][2]
  redis.call('XDEL', KEYS[3], oldest[1])
  if redis.call('HGET', KEYS[2], place) == 'dead' then
    redis.call('HDEL', KEYS[2], place)
    local item = read(ARGV[2] .. place)
    if item then let_end(ARGV[2] .. place, item.deleted, item.ends, ARGV[3]) end
  end
end
return 0
