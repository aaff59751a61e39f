-- The records of a kind: change some by compare-and-set, read what has changed.
--
-- Theory of operation. `order` has the names of all records by the version of their last change, of removed ones too;
-- `values` has what is there, `gone` what was removed, by its version. So who knows a version reads in `order` from
-- there on, and a name without a value was removed. `versions` has the collection's last ones. Who builds on one that
-- is not among them can't be told what has changed, and reads all: they were away for too long, or know something that
-- was lost (an empty database, a fail-over without the last writes). Where a removal is forgotten, so are the versions
-- before it.
--
-- It is read in pages, in order of version. What is changed meanwhile comes later in `order`, so who goes on where the
-- page before ended has, after the last one, the state at the version which that tells. A page ends where a version
-- does, for the next one begins behind it; a change is bounded, so a page is.
--
-- Invariants. A version is never used twice: it is the time in whole microseconds of this server's clock, and more than
-- the one before. `counter` is "<version> <number in values> <number in gone>", and the names in `order` are those of
-- `values` and `gone`. Where the numbers say otherwise a key was lost, or is not ours: then there is no collection, and
-- the next change begins anew.
--
-- KEYS   [1] counter, [2] order (sorted set), [3] values (hash), [4] gone, [5] versions (sorted sets): one slot
-- ARGV   [1] change  [2] the version that the collection must have, "" for any, [3] most removals and [4] most versions
--            that are remembered, [5] how many are written, name and value of each, names of those that are removed
--            reply: the new version, or nil where it has another one
--        [1] read    [2] the version after which to read, [3] the version that the reader began with (0: with nothing),
--            [4] the version that the page before told, [5] records and [6] bytes after which the page ends with its
--            version, [7] most records that a version has
--            reply: version, 1 where the reader must forget all and begin anew (this page does), the version to read on
--            after (0: there is no more), then name, version and value (nil: removed) of each
local order, values, gone, versions = KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local version, removed = 0, 0
local counter = redis.pcall('GET', KEYS[1])
if type(counter) == 'string' then
  local at, live, dead = string.match(counter, '^(%d+) (%d+) (%d+)$')
  at, live, dead = tonumber(at), tonumber(live), tonumber(dead)
  if at and at < 9007199254740991 and redis.pcall('HLEN', values) == live and redis.pcall('ZCARD', gone) == dead
    and redis.pcall('ZCARD', order) == live + dead then
    version, removed = at, dead
  end
end

if ARGV[1] == 'change' then
  if ARGV[2] ~= '' and tonumber(ARGV[2]) ~= version then return nil end
  if version == 0 then redis.call('DEL', order, values, gone, versions) end
  if type(redis.pcall('ZCARD', versions)) == 'table' then redis.call('DEL', versions) end
  local time = redis.call('TIME')
  version = math.max(time[1] * 1000000 + time[2], version + 1)
  local stamp = string.format('%.0f', version)
  local written = 5 + 2 * tonumber(ARGV[5])
  for i = 6, written, 2 do
    redis.call('HSET', values, ARGV[i], ARGV[i + 1])
    redis.call('ZADD', order, stamp, ARGV[i])
    removed = removed - redis.call('ZREM', gone, ARGV[i])
  end
  for i = written + 1, #ARGV do
    if redis.call('HDEL', values, ARGV[i]) == 1 then
      redis.call('ZADD', order, stamp, ARGV[i])
      removed = removed + redis.call('ZADD', gone, stamp, ARGV[i])
    end
  end
  redis.call('ZADD', versions, stamp, stamp)
  redis.call('ZREMRANGEBYRANK', versions, 0, -tonumber(ARGV[4]) - 1)
  while removed > tonumber(ARGV[3]) do
    local oldest = redis.call('ZPOPMIN', gone)
    redis.call('ZREM', order, oldest[1])
    redis.call('ZREMRANGEBYSCORE', versions, '-inf', '(' .. oldest[2])
    removed = removed - 1
  end
  redis.call('SET', KEYS[1], string.format('%s %.0f %.0f', stamp, redis.call('HLEN', values), removed))
  return version
end

local function known(stamp)
  return tonumber(stamp) == version or type(redis.pcall('ZSCORE', versions, stamp)) == 'string'
end

if version == 0 then return {0, 1, 0} end
local since, anew = tonumber(ARGV[2]), 0
if since == 0 or not (known(ARGV[3]) and known(ARGV[4])) then since, anew = 0, 1 end
local most, enough, bytes, last = tonumber(ARGV[5]), tonumber(ARGV[6]), 0, since
local reply = {version, anew, 0}
local found = redis.call('ZRANGEBYSCORE', order, string.format('(%.0f', since), '+inf', 'WITHSCORES',
  'LIMIT', 0, most + tonumber(ARGV[7]) + 1)
for i = 1, #found, 2 do
  local at = tonumber(found[i + 1])
  if at ~= last and (i > 2 * most or bytes > enough) then
    reply[3] = last
    return reply
  end
  local value = redis.call('HGET', values, found[i])
  reply[#reply + 1] = found[i]
  reply[#reply + 1] = at
  reply[#reply + 1] = value
  last = at
  bytes = bytes + #found[i] + (value and #value or 0)
end
return reply
