-- Take from token buckets: all of a group's, or none of them. One call carries the groups of many requests.
--
-- Theory of operation. A bucket is one string, "<stamp> <debt>": the tokens that were missing (debt) at a time of this
-- server's clock (stamp, whole microseconds). Drained up to now the debt shrinks by elapsed * rate; a take of `cost` is
-- admitted when debt + cost <= burst. This is GCRA (ITU-T I.371, virtual scheduling) counted in tokens, and the same
-- arithmetic, operation by operation, as adapters/memory/buckets.py.
--
-- Invariants. Over any window a bucket admits at most burst + rate * window. A clock that goes back drains nothing and
-- gives nothing: the debt stays and drains on from the new time. A key expires no sooner than its bucket is full again.
-- Groups are decided one after the other, so two groups on one bucket see each other. A key that holds something else
-- fails its own group only.
--
-- KEYS   for each group: its guard's two keys where it has a guard; the keys of its takes; those of its otherwise-takes
-- ARGV   [1] now in microseconds, "" for TIME;
--        then for each group: flag "0" (no guard) or the generation that the guard expects, prefixed "g";
--        n, and n times burst, rate (per second), cost; and with a guard also m, and m times the same
-- reply  for each group: 1 (the guard held, or there is none) or 0, and 2 less where a key holds something else; then an
--        integer per take (after 0 or -2: per otherwise-take): >= 0 the debt in millionths of a token, < 0 the wait in
--        microseconds. At the very end: now in microseconds, for give.lua
local now = tonumber(ARGV[1])
local linger = 3600000 -- ms that a key outlives its refill: a suite's clock stands still while this server's goes on
if not now then
  linger = 1
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local reply, k, a = {}, 1, 2
while ARGV[a] do
  local flag = ARGV[a]
  local n = tonumber(ARGV[a + 1])
  local key, arg = k, a + 2
  k, a = k + n, arg + 3 * n
  local held = 1
  if flag ~= '0' then
    key, k = key + 2, k + 2
    local m = tonumber(ARGV[a])
    local generation = redis.pcall('GET', KEYS[key - 1]) or '0'
    if type(generation) == 'table' then
      held = -1
    elseif redis.call('EXISTS', KEYS[key - 2]) == 0 or 'g' .. generation ~= flag then
      held, key, arg, n = 0, key + n, a + 1, m
    end
    k, a = k + m, a + 1 + 3 * m
  end
  reply[#reply + 1] = held
  local first, admitted, debts = #reply, held >= 0, {}
  for i = 1, n do
    local burst, rate, cost = tonumber(ARGV[arg]), tonumber(ARGV[arg + 1]), tonumber(ARGV[arg + 2])
    local debt = 0
    local bucket = redis.pcall('GET', KEYS[key + i - 1])
    if bucket then
      local stamp, owed = 0, nil
      if type(bucket) == 'string' then
        local space = string.find(bucket, ' ', 1, true) or 1
        stamp, owed = tonumber(string.sub(bucket, 1, space - 1)), tonumber(string.sub(bucket, space + 1))
      end
      if not stamp or not owed then
        reply[first], admitted, stamp, owed = held == 0 and -2 or -1, false, now, 0
      end
      debt = owed
      local elapsed = now - stamp
      if elapsed > 0 then
        debt = debt - elapsed * rate / 1000000
        if debt < 0 then debt = 0 end
      elseif elapsed < 0 then
        redis.call('SET', KEYS[key + i - 1], string.format('%.0f %.17g', now, debt), 'KEEPTTL')
      end
    end
    local after = debt + cost
    if after > burst * 1.000000000001 + 1e-9 then
      admitted = false
      reply[first + i] = math.min(-1, -math.ceil((after - burst) * 1000000 / rate))
    else
      reply[first + i] = math.ceil(after * 1000000)
    end
    debts[i] = after
    arg = arg + 3
  end
  arg = arg - 3 * n
  for i = 1, n do
    if admitted then
      local ttl = math.min(math.ceil(debts[i] * 1000 / tonumber(ARGV[arg + 1])) + linger, 1e15)
      redis.call('SET', KEYS[key + i - 1], string.format('%.0f %.17g', now, debts[i]), 'PX', string.format('%.0f', ttl))
    elseif reply[first + i] >= 0 then
      reply[first + i] = math.ceil((debts[i] - tonumber(ARGV[arg + 2])) * 1000000)
    end
    arg = arg + 3
  end
end
reply[#reply + 1] = now
return reply
