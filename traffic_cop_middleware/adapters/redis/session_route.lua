-- A session's routes: make one, look at it, give it to another instance, end it.
--
-- Theory of operation. All routes of a session are one hash, a field per service: "<version> <made> <ends> <instance>",
-- times in whole microseconds of this server's clock. A route is live while `ends` lies ahead; the key expires no
-- sooner than its last route. What reads otherwise is no route, and making one writes over it.
--
-- Invariants. A session has one live route to a service; the first `create` decides. Versions count an owner's changes
-- from 1.
--
-- KEYS   [1] the session's hash
-- ARGV   [1] create, validate, update, end, end_all or all; [2] service; [3] time to live in microseconds, "" to leave it;
--        [4] instance (create, update); [5] the version it must have (update)
-- reply  end, end_all: service and made of each live route that was deleted, one after the other; all: service, version,
--        made, ends, now and instance of each live one; otherwise nil for no route, or version, made, ends, now, instance, and 1 where it was written
local operation, service = ARGV[1], ARGV[2]
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local function read(text)
  if type(text) ~= 'string' then return nil end
  local version, made, ends, instance = string.match(text, '^(%d+) (%d+) (%d+) (.*)$')
  version, made, ends = tonumber(version), tonumber(made), tonumber(ends)
  if not version or math.max(version, made, ends) >= 9007199254740991 or ends <= now then return nil end
  return {version, made, ends, now, instance, 0}
end

if operation == 'end_all' or operation == 'all' then
  local ended = {}
  local held = redis.pcall('HGETALL', KEYS[1])
  if held.err then return ended end
  for i = 1, #held, 2 do
    local route = read(held[i + 1])
    if route and operation == 'all' then
      ended[#ended + 1] = held[i]
      for j = 1, 5 do ended[#ended + 1] = route[j] end
    elseif route then
      ended[#ended + 1] = held[i]
      ended[#ended + 1] = route[2]
    end
  end
  if operation == 'end_all' then redis.call('DEL', KEYS[1]) end
  return ended
end

local held = redis.pcall('HGET', KEYS[1], service)
local route = read(held)
if operation == 'end' then
  if not route then return {} end
  redis.call('HDEL', KEYS[1], service)
  return {service, route[2]}
end

local ttl = tonumber(ARGV[3])
if operation == 'create' then
  if route then return route end
  if type(held) == 'table' then
    redis.call('DEL', KEYS[1])
  else
    local others = redis.call('HGETALL', KEYS[1])
    for i = 1, #others, 2 do
      if not read(others[i + 1]) then redis.call('HDEL', KEYS[1], others[i]) end
    end
  end
  route = {1, now, 0, now, ARGV[4], 0}
elseif not route then
  return nil
elseif operation == 'update' then
  if route[1] ~= tonumber(ARGV[5]) then return nil end
  route[1], route[5] = route[1] + 1, ARGV[4]
elseif not ttl then
  return route
end
route[3], route[6] = now + ttl, 1
redis.call('HSET', KEYS[1], service, string.format('%.0f %.0f %.0f ', route[1], route[2], route[3]) .. route[5])
local milliseconds = math.ceil(ttl / 1000)
if redis.call('PTTL', KEYS[1]) < milliseconds then
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', milliseconds))
end
return route
