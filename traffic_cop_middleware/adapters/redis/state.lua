-- State: what its scripts share. Those that need it begin with this text.
--
-- Theory of operation. An item is a string, "<version> <tier> <written, microseconds> <end, seconds, or -> =" and its
-- value, or "-" in place of "=" and the value where it was deleted (a tombstone). The tier is c, d or i, and C, D or I
-- where a caller named it. Beside the items a partition has, all in its slot:
--   index   per tenant and namespace, a sorted set of the keys of what has a value, all with the score 0
--   ends    a sorted set of the places of what has an end, by that end (milliseconds)
--   queued  a hash of the places of what the documents are still to get: the id of an entry that nobody has claimed, or
--           "claimed <worker>", or "dead"
--   outbox  a stream of the places of what was written, with one consumer group; `dead` one of those that failed
--   changes a stream of what was written, for watchers; each entry names the id of the one before
-- A place is "<tenant> NUL <namespace> NUL <key>", and an item's key in Redis ends with it.
--
-- Invariants. What is queued has no TTL. Whatever takes a place out of `queued` gives its item the TTL that is due, so
-- that tombstones and what has ended do not stay for good. A version is more than the one before it, and at least the
-- time in whole microseconds of this server's clock. Each queued place has an entry in `outbox` or `dead`.
-- Items, and the index that a sweep cleans, are not among KEYS where a place leads to them: they share the slot.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

-- An item, or nil where there is none, or something else. Its value may be large, and stays where it is. What may not be
-- read (ACL) is an error, and not nothing: of what is nothing the entry in the outbox is dropped.
local function read(key)
  local text = redis.pcall('GETRANGE', key, 0, 127)
  if type(text) ~= 'string' then
    if not string.find(text.err, 'WRONGTYPE', 1, true) then error(text.err) end
    return nil
  end
  local version, tier, written, ends, kind = string.match(text, '^(%d+) ([cdiCDI]) (%d+) (%S+) ([=-])')
  if not version then return nil end
  return {
    version = tonumber(version), tier = tier, named = string.find(tier, '%u') ~= nil, ends = tonumber(ends),
    deleted = kind == '-', dates = written .. ' ' .. ends
  }
end

-- Whether the documents are to have what is of this tier.
local function lasting(tier)
  return tier ~= 'c' and tier ~= 'C'
end

local function alive(item)
  return not item.deleted and not (item.ends and item.ends * 1000000 <= now)
end

-- Let an item end when it is due: it is not queued, or no longer.
local function let_end(key, deleted, ends, tombstone)
  if deleted then
    redis.call('PEXPIRE', key, tombstone)
  elseif ends then
    redis.call('PEXPIREAT', key, string.format('%.0f', math.min(math.ceil(ends * 1000), 9000000000000000)))
  end
end

-- Take out of the indexes some of what has ended: more than a write adds.
local function sweep(ends, indexes)
  local over = redis.call('ZRANGEBYSCORE', ends, '-inf', string.format('%.0f', now / 1000), 'LIMIT', 0, 8)
  for _, place in ipairs(over) do
    local namespace = string.find(place, '\0', 1, true)
    local key = namespace and string.find(place, '\0', namespace + 1, true)
    if key then redis.call('ZREM', indexes .. string.sub(place, 1, key - 1), string.sub(place, key + 1)) end
    redis.call('ZREM', ends, place)
  end
end

-- Note an item in the indexes, or take it out.
local function note(index, ends, place, key, item_ends, deleted)
  if deleted then
    redis.call('ZREM', index, key)
  else
    redis.call('ZADD', index, 0, key)
  end
  if item_ends and not deleted then
    redis.call('ZADD', ends, string.format('%.0f', item_ends * 1000), place)
  else
    redis.call('ZREM', ends, place)
  end
end
