-- The index of a namespace's session routes: for lists, clean-up and figures.
--
-- Theory of operation. The index follows the routes (session_route.lua), which decide: who has changed a route notes it
-- here right after. A member is "<length of service>:<service><id>"; its row is "<version> <made> <ends> <written>
-- <instance>", `written` being when the route was. What was written before the row changes nothing: notes of several
-- workers may come in any order. (One that comes after the note of the end leaves a row until `ends`.)
--
-- Invariants. `made`, `ends` and `rows` have the same members; a count of `counts`, "<length of service>:<service>
-- <instance>" without the blank, is the number of its rows.
--
-- KEYS   [1] made, [2] ends (sorted sets), [3] rows, [4] counts (hashes): one slot
-- ARGV   [1] put     [2] "<length>:<service>", [3] id, [4] version, [5] made, [6] ends, [7] written, [8] instance
--            remove  and for each: [2] "<length>:<service>", [3] id, [4] made
--            sweep   [2] most                                   reply: how many ran out
--            figures                                            reply: count name, number, …
--            active  [2] "<length>:<service>" or "", [3] "=<instance>" or "", [4] `made` to begin at (or +inf), [5] page
--                    reply: now, `made` to go on at ("" at the end), then member and row of each
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local stamp = string.format('%.0f', now)

local function read(member)
  local row = redis.call('HGET', KEYS[3], member)
  if not row then return nil end
  local version, made, ends, written, instance = string.match(row, '^(%d+) (%d+) (%d+) (%d+) (.*)$')
  if not version then return nil end
  return {
    version = tonumber(version), made = tonumber(made), ends = tonumber(ends), written = tonumber(written),
    instance = instance, text = row,
  }
end

local function prefix(member)
  local length = tonumber(string.match(member, '^(%d+):')) or 0
  return string.sub(member, 1, (string.find(member, ':', 1, true) or 0) + length)
end

local function count(name, by)
  if redis.call('HINCRBY', KEYS[4], name, by) <= 0 then redis.call('HDEL', KEYS[4], name) end
end

local function drop(member)
  local row = read(member)
  if row then count(prefix(member) .. row.instance, -1) end
  redis.call('ZREM', KEYS[1], member)
  redis.call('ZREM', KEYS[2], member)
  redis.call('HDEL', KEYS[3], member)
end

local operation = ARGV[1]

if operation == 'put' then
  local member = ARGV[2] .. ARGV[3]
  local version, made, written = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[7])
  local row = read(member)
  if row then
    if row.made > made or (row.made == made and row.written > written) then return 0 end
    if row.made == made and row.written == written and row.version > version then return 0 end
    count(ARGV[2] .. row.instance, -1)
  end
  count(ARGV[2] .. ARGV[8], 1)
  redis.call('ZADD', KEYS[1], ARGV[5], member)
  redis.call('ZADD', KEYS[2], ARGV[6], member)
  redis.call('HSET', KEYS[3], member, table.concat({ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]}, ' '))
  return 1
end

if operation == 'remove' then
  for i = 2, #ARGV, 3 do
    local row = read(ARGV[i] .. ARGV[i + 1])
    if row and row.made <= tonumber(ARGV[i + 2]) then drop(ARGV[i] .. ARGV[i + 1]) end
  end
  return 1
end

if operation == 'sweep' then
  local spent = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', stamp, 'LIMIT', 0, ARGV[2])
  for _, member in ipairs(spent) do drop(member) end
  return #spent
end

if operation == 'figures' then
  local counts = {}
  local held = redis.call('HGETALL', KEYS[4])
  for i = 1, #held, 2 do counts[held[i]] = tonumber(held[i + 1]) end
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', stamp)) do
    local row = read(member)
    local name = row and prefix(member) .. row.instance
    if name and counts[name] then counts[name] = counts[name] - 1 end
  end
  local reply = {}
  for name, number in pairs(counts) do
    if number > 0 then
      reply[#reply + 1] = name
      reply[#reply + 1] = number
    end
  end
  return reply
end

local reply = {now, ''}
local page = redis.call('ZREVRANGEBYSCORE', KEYS[1], ARGV[4], '-inf', 'WITHSCORES', 'LIMIT', 0, ARGV[5])
if #page >= 2 * tonumber(ARGV[5]) then reply[2] = page[#page] end
for i = 1, #page, 2 do
  local row = read(page[i])
  if row and row.ends > now
    and (ARGV[2] == '' or prefix(page[i]) == ARGV[2]) and (ARGV[3] == '' or '=' .. row.instance == ARGV[3]) then
    reply[#reply + 1] = page[i]
    reply[#reply + 1] = row.text
  end
end
return reply
