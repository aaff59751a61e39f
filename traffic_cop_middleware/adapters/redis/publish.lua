-- Publish a message of a topic: number it, note it in the topic's log, tell who listens.
--
-- Theory of operation. The counter holds the topic's position, "<version> <stamp>": how many messages there were, and
-- when the last one was published (microseconds of this server's clock, and always more than the stamp before). A
-- message is "<version> <stamp> <stamp of the one before> <payload>", both in the log and as notification. So a reader
-- at a position knows its next message by two numbers that must fit, and a counter that began anew (an empty database,
-- a fail-over that lost the last writes, an eviction) never looks like a continuation.
--
-- Invariants. In one chain versions are 1, 2, 3, …, and stamps grow. The log holds the last messages of the chain, the
-- newest last, or nothing. A key that holds something else is written over, and the chain begins anew. Who may not
-- PUBLISH on the channel is still read: from the log, at the next poll.
--
-- KEYS   [1] counter, [2] log: one slot
-- ARGV   [1] payload, [2] channel, [3] most messages in the log, [4] seconds that the log lives on, [5] and the counter
-- reply  the message's version
local position = redis.pcall('GET', KEYS[1])
local version, stamp = nil, nil
if type(position) == 'string' then
  version, stamp = string.match(position, '^(%d+) (%d+)$')
  version, stamp = tonumber(version), tonumber(stamp)
end
if not version or version >= 9007199254740991 or stamp >= 9007199254740991 then
  version, stamp = 0, 0
  redis.call('DEL', KEYS[2])
end
local time = redis.call('TIME')
local now = math.max(time[1] * 1000000 + time[2], stamp + 1)
local place = string.format('%.0f %.0f', version + 1, now)
local message = place .. string.format(' %.0f ', stamp) .. ARGV[1]
redis.call('SET', KEYS[1], place, 'EX', ARGV[5])
if type(redis.pcall('RPUSH', KEYS[2], message)) == 'table' then
  redis.call('DEL', KEYS[2])
  redis.call('RPUSH', KEYS[2], message)
end
redis.call('LTRIM', KEYS[2], -tonumber(ARGV[3]), -1)
redis.call('EXPIRE', KEYS[2], ARGV[4])
redis.pcall('PUBLISH', ARGV[2], message)
return version + 1
