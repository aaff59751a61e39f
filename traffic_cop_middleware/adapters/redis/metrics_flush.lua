-- Write what a worker has counted.
--
-- Theory of operation. `live` has three fields per worker: "w:<worker>" is the header "<sequence> <through> <final>
-- <microseconds>", "t:<worker>" its sum of the first `through` slots, "n:<worker>" what came after that. All of it is
-- absolute, so a call that is repeated writes the same again. `gone` is there of a worker that is in the record
-- (metrics_retire.lua): with what went in ("t", "n") if it was taken for dead, and with "final" if it had ended. A
-- window has a field per worker, and "#": its stamp, the time of the last write. No worker has these names.
--
-- Invariants. The sum and what came after it are of one flush, so together they hold each request once: without a sum
-- of as many slots as this flush says nothing of `live` is written. A header's sequence only grows. Who is
-- gone writes nothing: all that it ever wrote is in the record, or it hears what is.
--
-- KEYS   [1] live, [2] gone of this worker, [3…] windows: one slot
-- ARGV   [1] worker, [2] sequence, [3] through, [4] 1 for a final flush, [5] 1 if there is a sum, [6] the sum, [7] what
--        came after it, [8] seconds that `live` is kept, then for each window: the part, seconds that it is kept
-- reply  {1 if `live` was written (or is newer, or the final flush is in the record), epoch, version of the record, sum,
--        after}: the last two for who was taken for dead
local worker = ARGV[1]
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000000 + time[2])
redis.call('HSETNX', KEYS[1], 'epoch', now)
local epoch = redis.call('HGET', KEYS[1], 'epoch')
local version = redis.call('HGET', KEYS[1], 'version') or '0'
local gone = redis.call('HMGET', KEYS[2], 'final', 't', 'n')
if gone[1] then return {1, epoch, version} end
if gone[2] then return {0, epoch, version, gone[2], gone[3]} end
local header = redis.call('HGET', KEYS[1], 'w:' .. worker)
local sequence, through = nil, nil
if header then
  sequence, through = string.match(header, '^(%d+) (-?%d+) ')
end
if sequence and tonumber(sequence) >= tonumber(ARGV[2]) then
  return {1, epoch, version}
end
for i = 3, #KEYS do
  redis.call('HDEL', KEYS[i], '=')  -- what it was sealed as (metrics_seal.lua)
  redis.call('HSET', KEYS[i], worker, ARGV[9 + (i - 3) * 2], '#', now)
  redis.call('EXPIRE', KEYS[i], ARGV[10 + (i - 3) * 2])
end
if ARGV[5] ~= '1' and through ~= ARGV[3] then
  return {0, epoch, version}
end
header = ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. ARGV[4] .. ' ' .. now
redis.call('HSET', KEYS[1], 'w:' .. worker, header, 'n:' .. worker, ARGV[7])
if ARGV[5] == '1' then
  redis.call('HSET', KEYS[1], 't:' .. worker, ARGV[6])
end
redis.call('EXPIRE', KEYS[1], ARGV[8])
return {1, epoch, version}
