-- Keep items in another tier and with another value, each where it is at a version and neither deleted nor over.
--
-- The version, the dates and whether a caller named the tier stay, so no watcher hears. What is queued stays so, without
-- an end; SET takes the TTL of anything else, which gets it again.
--
-- KEYS   [1] queued
-- ARGV   [1] what the keys of items begin with, then for each: place, version, tier (c, d, i), "=" and the value or "-"
-- reply  for each 1 where it is so now, else 0
local reply = {}
for i = 2, #ARGV, 4 do
  local place, key = ARGV[i], ARGV[1] .. ARGV[i]
  local item = read(key)
  local found = item and item.version == tonumber(ARGV[i + 1]) and alive(item) and ARGV[i + 3] ~= '-'
  if found then
    local tier = item.named and string.upper(ARGV[i + 2]) or ARGV[i + 2]
    redis.call('SET', key, string.format('%.0f', item.version) .. ' ' .. tier .. ' ' .. item.dates .. ' ' .. ARGV[i + 3])
    if redis.call('HEXISTS', KEYS[1], place) == 0 then let_end(key, false, item.ends) end
  end
  reply[#reply + 1] = found and 1 or 0
end
return reply
