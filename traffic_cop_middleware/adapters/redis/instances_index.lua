-- Which services have how many instances: an index of all lists, for figures.
--
-- Theory of operation. The lists decide (instances.lua); who has announced or ended something notes it here right after.
-- A member is "<length of service>:<service><instance>", its score when the announcement of one of its holders ends,
-- the latest that was noted. So the end of one of several holders is not noted, only that of an instance.
--
-- KEYS   [1] the index (sorted set)
-- ARGV   [1] put      [2] member, [3] when it ends
--        [1] remove   [2] member
--        [1] figures  reply: "<length>:<service>", number, …
local time = redis.call('TIME')
if ARGV[1] == 'put' then return redis.call('ZADD', KEYS[1], 'GT', ARGV[3], ARGV[2]) end
if ARGV[1] == 'remove' then return redis.call('ZREM', KEYS[1], ARGV[2]) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', time[1] * 1000000 + time[2]))
local counts, reply = {}, {}
for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local length = tonumber(string.match(member, '^(%d+):')) or 0
  local service = string.sub(member, 1, (string.find(member, ':', 1, true) or 0) + length)
  counts[service] = (counts[service] or 0) + 1
end
for service, number in pairs(counts) do
  reply[#reply + 1] = service
  reply[#reply + 1] = number
end
return reply
