-- Whether a write that a lease guards may be made. It stands in front of the text of the script that writes, which asks
-- it before its first write: `if not fenced(KEYS[1], tonumber(ARGV[1])) then return … end`.
--
-- Theory of operation. The fence has the highest token that has written to what it guards. It stands beside that, under
-- a key with the same hash tag, `<namespace>:{<tag>}:fence`: one slot, so that looking and writing are one script, also
-- where the lease is in another slot, or in another store. It has no TTL: it lives as long as what it guards. Who takes
-- over lets its token be seen before it reads, by a script that asks this and writes nothing.
--
-- Invariant. The tokens of the writes that were made never fall. A fence that holds something else is written over, as
-- one that was lost.
local function fenced(key, token)
  local found = redis.pcall('GET', key)
  local highest = type(found) == 'string' and string.match(found, '^%d+$') and tonumber(found) or -1
  if token < highest then return false end
  if token > highest then redis.call('SET', key, string.format('%.0f', token)) end
  return true
end
