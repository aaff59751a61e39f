-- Write the record's next version, and forget the workers whose sums are in it: all of that, or nothing.
--
-- A worker that did not say that it ends may only have been away: its sums stay in `gone` for a time, so that it can
-- take them off when it comes back. Of one that said so only that stays, for it may not have heard our reply, and says it
-- again (metrics_flush.lua).
--
-- KEYS   [1] live, then gone of each worker: one slot
-- ARGV   [1] epoch, [2] version that the record has, [3] the record, [4] seconds that `gone` is kept, then for each
--        worker: its name, its sequence
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
for i = 5, #ARGV, 2 do
  local worker, gone = ARGV[i], KEYS[(i - 1) / 2]
  if finals[worker] then
    redis.call('HSET', gone, 'final', 1)
  else
    local parts = redis.call('HMGET', KEYS[1], 't:' .. worker, 'n:' .. worker)
    redis.call('HSET', gone, 't', parts[1] or '', 'n', parts[2] or '')
  end
  redis.call('EXPIRE', gone, ARGV[4])
  redis.call('HDEL', KEYS[1], 'w:' .. worker, 't:' .. worker, 'n:' .. worker)
end
redis.call('HSET', KEYS[1], 'record', ARGV[3], 'version', string.format('%.0f', tonumber(ARGV[2]) + 1))
return 1
