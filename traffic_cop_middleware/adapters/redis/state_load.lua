-- Items as they stand (state.lua), and the time by which to see which of them have ended.
--
-- KEYS   items of one partition
-- ARGV   [1] bytes of the largest that is given, where not all are
-- reply  now (microseconds), then for each a text, or nil, or 0 for what is larger
local time = redis.call('TIME')
local now, largest = time[1] * 1000000 + time[2], tonumber(ARGV[1])
local found = {}
if largest then
  for i, key in ipairs(KEYS) do
    local size = redis.pcall('STRLEN', key)
    if type(size) ~= 'number' then
      found[i] = false
    else
      found[i] = size > largest and 0 or redis.call('GET', key)
    end
  end
else
  found = redis.call('MGET', unpack(KEYS))
end
table.insert(found, 1, now)
return found
