-- How many sessions of each kind there are, and which of them may have run out.
--
-- Theory of operation. Each kind has a sorted set of its sessions, "{tag}id" by when they were last known to end. A use
-- puts the end off without a word here, so whoever is due is looked after (its record may live on) and, if it lives,
-- scored anew. These keys, the set of the kinds among them, have a slot of their own.
--
-- KEYS   [1] the set of the kinds
-- ARGV   [1] what the keys of the kinds' sorted sets begin with, [2] the most that are told as due
-- reply  now (stamp), and for each kind: kind, how many are not due, a list of those that are
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local stamp = string.format('%.0f', now)
local reply, most = {now}, tonumber(ARGV[2])
for _, kind in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local key = ARGV[1] .. kind
  local due = {}
  if most > 0 then due = redis.call('ZRANGEBYSCORE', key, '-inf', stamp, 'LIMIT', 0, string.format('%.0f', most)) end
  most = most - #due
  reply[#reply + 1] = {kind, redis.call('ZCOUNT', key, '(' .. stamp, '+inf'), due}
end
return reply
