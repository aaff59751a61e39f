-- Write the record's next version, and forget the workers whose sums are in it: all of that, or nothing.
--
-- A worker that did not say that it ends may only have been away: its sums stay in `gone` for a time, so that it can
-- take them off when it comes back (metrics_flush.lua).
--
-- KEYS   [1] live, [2] gone: one slot
-- ARGV   [1] epoch, [2] version that the record has, [3] the record, [4] seconds that a worker stays in `gone`, then for
--        each worker: its name, its sequence
-- reply  1, or 0 where the record has another version by now, or a worker has written since
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch or epoch ~= ARGV[1] or (redis.call('HGET', KEYS[1], 'version') or '0') ~= ARGV[2] then return 0 end
local finals = {}
for i = 5, #ARGV, 2 do
  local header = redis.call('HGET', KEYS[1], 'w:' .. ARGV[i])
  if not header then return 0 end
  local sequence, final = string.match(header, '^(%d+) %-?%d+ (%d)')
  if sequence ~= ARGV[i + 1] then return 0 end
  finals[ARGV[i]] = final == '1'
end
local now = tonumber(redis.call('TIME')[1])
for i = 5, #ARGV, 2 do
  local worker = ARGV[i]
  if not finals[worker] then
    redis.call('HSET', KEYS[2], 'w:' .. worker, now, 't:' .. worker, redis.call('HGET', KEYS[1], 't:' .. worker) or '',
      'n:' .. worker, redis.call('HGET', KEYS[1], 'n:' .. worker) or '')
  end
  redis.call('HDEL', KEYS[1], 'w:' .. worker, 't:' .. worker, 'n:' .. worker)
end
for _, field in ipairs(redis.call('HKEYS', KEYS[2])) do
  local worker = string.match(field, '^w:(.*)$')
  if worker and now - (tonumber(redis.call('HGET', KEYS[2], field)) or 0) > tonumber(ARGV[4]) then
    redis.call('HDEL', KEYS[2], field, 't:' .. worker, 'n:' .. worker)
  end
end
redis.call('HSET', KEYS[1], 'record', ARGV[3], 'version', string.format('%.0f', tonumber(ARGV[2]) + 1))
return 1
