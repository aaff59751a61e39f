-- Sessions: what their scripts share. Every one of them begins with this text.
--
-- Theory of operation. A session is a hash. Its fields of one letter are ours: g generation, v version, c created,
-- e end of its lifetime, r rotation, t when that rotation was made, n bytes in its data, k kind, m meta; its data has
-- the fields ":<name>". Beside it a tag has a generation (a string), and an index: a sorted set of the ids of its
-- sessions by the end of their lifetime. Stamps are whole microseconds of this server's clock. The record's TTL is its
-- idle period, or what is left of its lifetime; when it is over nothing remains but entries in indexes, which every
-- reader checks against the record. Whatever else stands under a record's key is no session, and is left alone.
--
-- Invariants. A session is valid only where its own generation, the one that the tag has and the one that the caller
-- knows are the same. A generation is never used twice: the first one of a tag is the time, and it only counts up; so
-- where the tag's generation is lost (expired, evicted, flushed) none of its sessions is valid any more, and none of
-- them ever is again. It lives as long as any session made under it could. Every script touches keys of one tag alone.
-- The records that an index leads to are not among KEYS: they share the slot of those that are.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local function whole(number)
  return string.format('%.0f', number)
end

-- The generation that the tag has: a text, '0' where there is none.
local function generation_at(key)
  local found = redis.pcall('GET', key)
  if type(found) == 'string' and string.find(found, '^[1-9]%d*$') and #found <= 16 then return found end
  return '0'
end

-- A valid session's own fields, or nil.
local function session(record, generation)
  local found = redis.pcall('HMGET', record, 'g', 'v', 'c', 'e', 'r', 't', 'n', 'k', 'm')
  if found.err and not string.find(found.err, 'WRONGTYPE', 1, true) then
    redis.call('EXISTS', record) -- of a cluster's slot on the move, and elsewhere already: end here, for it may be valid
  end
  if found.err or generation == '0' or found[1] ~= generation or not found[8] or not found[9] then return nil end
  local version, created, ends = tonumber(found[2] or ''), tonumber(found[3] or ''), tonumber(found[4] or '')
  local rotation, rotated, size = tonumber(found[5] or ''), tonumber(found[6] or ''), tonumber(found[7] or '')
  if not (version and created and ends and rotation and rotated and size) or ends <= now then return nil end
  return {version = version, created = created, ends = ends, rotation = rotation, rotated = rotated, size = size,
          kind = found[8], meta = found[9]}
end

-- Begin a record's idle period (milliseconds) anew; when it ends by that, and whether that is nearer than it was.
local function begin_idle(record, ends, idle)
  local ttl = math.max(1, math.min(tonumber(idle), math.floor((ends - now) / 1000)))
  local nearer = ttl + 2 < redis.call('PTTL', record) -- both are rounded
  redis.call('PEXPIRE', record, whole(ttl))
  return now + ttl * 1000, nearer
end

-- Let a key live for so many milliseconds at least.
local function outlive(key, ttl)
  if redis.call('PTTL', key) < ttl then redis.call('PEXPIRE', key, whole(ttl)) end
end
