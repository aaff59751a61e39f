-- Give back what was taken from buckets of this slot, because another slot of the cluster refused the same request.
--
-- Theory of operation. A take raised the debt by `cost`; both then drained at `rate`. Given back is what of the cost can't
-- have drained yet: cost - elapsed * rate, where elapsed is counted from the take, on the clock that stamps buckets. More
-- than that would be too much where the bucket was full in between, for then a part of the cost has drained in place of
-- nothing.
--
-- Invariant. At any time the debt is at least what it would be had the takes that are given back never been made, plus
-- for each of them that is not given back yet what of its cost can't have drained. So a bucket admits no more than
-- burst + rate * window, and one that is never given back only admits less. A clock that went back behind the take gives
-- nothing.
--
-- KEYS   the buckets (take.lua)
-- ARGV   [1] now in microseconds, "" for TIME; then for each bucket: when it was taken from (microseconds), rate, cost
local now = tonumber(ARGV[1])
local linger = 3600000 -- as in take.lua
if not now then
  linger = 1
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
for i, key in ipairs(KEYS) do
  local taken, rate, cost = tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i]), tonumber(ARGV[3 * i + 1])
  local bucket = redis.pcall('GET', key)
  if type(bucket) == 'string' and now >= taken then
    local stamp, owed = string.match(bucket, '^(%d+) (%S+)$')
    stamp, owed = tonumber(stamp), tonumber(owed)
    local left = cost - (now - taken) * rate / 1000000
    if stamp and owed and left > 0 then
      local debt = math.max(0, owed - math.max(0, now - stamp) * rate / 1000000 - left)
      if debt > 0 then
        local ttl = math.min(math.ceil(debt * 1000 / rate) + linger, 1e15)
        redis.call('SET', key, string.format('%.0f %.17g', now, debt), 'PX', string.format('%.0f', ttl))
      else
        redis.call('DEL', key)
      end
    end
  end
end
return 1
