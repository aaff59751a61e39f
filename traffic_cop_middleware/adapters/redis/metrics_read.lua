-- Read what the workers have counted: who they are, some of them, or windows.
--
-- KEYS   of "workers" and "some": [1] live; of "windows": the windows. One slot
-- ARGV   [1] "workers", "some" and their names, or "windows"
-- reply  workers: {microseconds now, epoch, version, record, names…}
--        some: {epoch, version, microseconds now, then for each: header, sum, after}, empty texts for who is gone
--        windows: for each a flat list of worker and part; of a sealed one "=" and what it was sealed as
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000000 + time[2])
if ARGV[1] == 'windows' then
  local windows = {}
  for i, key in ipairs(KEYS) do
    local sealed = redis.call('HGET', key, '=')
    windows[i] = sealed and {'=', sealed} or redis.call('HGETALL', key)
  end
  return windows
end
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
