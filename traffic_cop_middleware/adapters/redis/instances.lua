-- The instances of a service: announce one (register), end an announcement (unregister), read those that live (read).
--
-- Theory of operation. `rows` has a row per live instance, "<version of its last change> <what it is>"; `ends` has each
-- holder of each, "<instance>\0<holder>", by when its announcement ends on this server's clock (microseconds), and
-- `holders` how many of them an instance has. Whoever asks for anything first takes out what has run out: the reader
-- pays for it, once, and a list that nobody reads is gone with its keys' own time to live. A heartbeat moves a score and
-- changes no version.
--
-- Invariants. A version is never used twice: it is the time in whole microseconds, and more than the one before. `head`
-- is "<version> <version that the list began with> <number of rows> <number of ends>". Where the numbers say otherwise
-- a key was lost, or is not ours: then there is no list, and the next heartbeat begins it anew. All keys live for a day
-- longer than the last announcement could, so a list that ended is told from one that was lost.
--
-- KEYS   [1] head, [2] rows (hash), [3] ends (sorted set), [4] holders (hash): one slot
-- ARGV   [1] register    [2] instance, [3] holder, [4] what it is, [5] ttl in microseconds, [6] milliseconds that the
--            keys live, [7] most instances, [8] most holders
--            reply: 1 where the list has changed, 0 where not; and when the announcement ends
--        [1] unregister  [2] instance, [3] holder
--            reply: 1 where the list has changed, 0 where not
--        [1] read        [2] the version that the reader knows (0: none)
--            reply: nil where the list still has it; else version, begun, then name and row of each
local head, rows, ends, holders = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local version, begun = 0, 0

local found = redis.pcall('GET', head)
if type(found) == 'string' then
  local its_version, its_begun, its_rows, its_ends = string.match(found, '^(%d+) (%d+) (%d+) (%d+)$')
  its_version = tonumber(its_version)
  if its_version and its_version < 9007199254740991 and redis.pcall('HLEN', rows) == tonumber(its_rows)
    and redis.pcall('HLEN', holders) == tonumber(its_rows) and redis.pcall('ZCARD', ends) == tonumber(its_ends) then
    version, begun = its_version, tonumber(its_begun)
  end
end
if version == 0 and ARGV[1] ~= 'register' then
  if ARGV[1] == 'read' then return {0, 0} end
  return 0
end
if version == 0 then redis.call('DEL', head, rows, ends, holders) end

local function grow()
  version = math.max(now, version + 1)
  if begun == 0 then begun = version end
end

local function note()
  redis.call('SET', head, string.format('%.0f %.0f %.0f %.0f', version, begun, redis.call('HLEN', rows),
    redis.call('ZCARD', ends)), 'KEEPTTL')
end

local function drop(instance)
  if redis.call('HINCRBY', holders, instance, -1) > 0 then return false end
  redis.call('HDEL', holders, instance)
  redis.call('HDEL', rows, instance)
  return true
end

local spent, gone = redis.call('ZRANGEBYSCORE', ends, '-inf', string.format('%.0f', now)), false
for _, member in ipairs(spent) do
  redis.call('ZREM', ends, member)
  gone = drop(string.sub(member, 1, string.find(member, '\0', 1, true) - 1)) or gone
end
if gone then grow() end
if #spent > 0 then note() end

if ARGV[1] == 'read' then
  if version == tonumber(ARGV[2]) then return nil end
  local reply = {version, begun}
  for _, part in ipairs(redis.call('HGETALL', rows)) do reply[#reply + 1] = part end
  return reply
end

local instance, member = ARGV[2], ARGV[2] .. '\0' .. ARGV[3]
if ARGV[1] == 'unregister' then
  if redis.call('ZREM', ends, member) == 0 then return 0 end
  local changed = drop(instance)
  if changed then grow() end
  note()
  return changed and 1 or 0
end

local row, held = redis.call('HGET', rows, instance), redis.call('ZSCORE', ends, member)
if not row and redis.call('HLEN', rows) >= tonumber(ARGV[7]) then
  return redis.error_reply('ERR the service has ' .. ARGV[7] .. ' instances already, which is the most')
end
if not held and redis.call('ZCARD', ends) >= tonumber(ARGV[8]) then
  return redis.error_reply('ERR the instances of the service have ' .. ARGV[8] .. ' holders, which is the most')
end
local changed = not row or string.match(row, '^%d+ (.*)$') ~= ARGV[4]
local its_end = now + tonumber(ARGV[5])
redis.call('ZADD', ends, string.format('%.0f', its_end), member)
if not held then redis.call('HINCRBY', holders, instance, 1) end
if changed then
  grow()
  redis.call('HSET', rows, instance, string.format('%.0f ', version) .. ARGV[4])
end
note()
for _, key in ipairs(KEYS) do
  if redis.call('PTTL', key) < tonumber(ARGV[6]) then redis.call('PEXPIRE', key, ARGV[6]) end
end
return {changed and 1 or 0, its_end}
