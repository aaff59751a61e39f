-- What was written in a partition since an entry of its changes, oldest first, at most a page of it.
--
-- Theory of operation. An entry names the one before it. So who has seen one knows whether the next is the next: where
-- entries between them were trimmed, or lost with the database or a fail-over, it is not. Where nothing came after, the
-- one that was seen must be the last. Nothing was seen: "0-0", which the very first entry names.
--
-- KEYS   [1] changes
-- ARGV   [1] the id of the entry that was seen last, or "" to ask for the last one only, [2] the same in the form from
--        which to read on, [3] what places begin with, [4] entries that a page looks at, [5] most that it gives
-- reply  id of the last entry, 1 where changes were lost, id of the entry to go on after, 1 if there is more, then for
--        each: id, place, version, 1 if it was deleted
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local last = newest and newest[1] or '0-0'
if ARGV[1] == '' then return {last, 0, last, 0} end
local entries = redis.call('XRANGE', KEYS[1], ARGV[2], '+', 'COUNT', ARGV[4])
local before = last
if entries[1] then before = entries[1][2][8] end
if before ~= ARGV[1] then return {last, 1, last, 0} end
local at, given = ARGV[1], 0
local reply = {last, 0, at, 0}
for _, entry in ipairs(entries) do
  if given >= tonumber(ARGV[5]) then break end
  at = entry[1]
  local place = entry[2][2]
  if string.sub(place, 1, #ARGV[3]) == ARGV[3] then
    given = given + 1
    for _, part in ipairs({at, place, entry[2][4], entry[2][6]}) do reply[#reply + 1] = part end
  end
end
reply[3] = at
reply[4] = at ~= last and 1 or 0
return reply
