-- Read what the workers have counted: who they are, some of them, or windows. What is long is asked for in parts.
--
-- KEYS   of "workers" and "some": [1] live; of "window" and "parts": [1] the window; of "stamps": windows. One slot
-- ARGV   [1] "workers", "some" and their names, "stamps", "window", or "parts" and the names of workers
-- reply  workers: {microseconds now, epoch, version, record, names…}
--        some: {epoch, version, microseconds now, then for each: header, sum, after}, empty texts for who is gone
--        stamps: for each window its stamp, or 0
--        window: {stamp, {what it was sealed as} or {}, names of its workers… unless it is sealed}
--        parts: for each worker its part, or false
if ARGV[1] == 'stamps' then
  local stamps = {}
  for i, key in ipairs(KEYS) do stamps[i] = redis.call('HGET', key, '#') or '0' end
  return stamps
end
if ARGV[1] == 'window' then
  local stamp, sealed = unpack(redis.call('HMGET', KEYS[1], '#', '='))
  if sealed then return {stamp, {sealed}} end
  local found = {stamp or '0', {}}
  for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
    if field ~= '#' then found[#found + 1] = field end
  end
  return found
end
if ARGV[1] == 'parts' then return redis.call('HMGET', KEYS[1], unpack(ARGV, 2)) end
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000000 + time[2])
local epoch = redis.call('HGET', KEYS[1], 'epoch') or '0'
local version = redis.call('HGET', KEYS[1], 'version') or '0'
if ARGV[1] == 'workers' then
  local found = {now, epoch, version, redis.call('HGET', KEYS[1], 'record') or ''}
  for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
    local worker = string.match(field, '^w:(.*)$')
    if worker then found[#found + 1] = worker end
  end
  return found
end
local found = {epoch, version, now}
for i = 2, #ARGV do
  local parts = redis.call('HMGET', KEYS[1], 'w:' .. ARGV[i], 't:' .. ARGV[i], 'n:' .. ARGV[i])
  for part = 1, 3 do found[#found + 1] = parts[part] or '' end
end
return found
