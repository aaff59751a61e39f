-- Write an item or its tombstone: compare the version, put it into the outbox, tell the watchers; all of that or nothing.
--
-- What waits unclaimed in the outbox is read when it is claimed, so one entry serves for all writes until then: an item
-- that is written all the time does not fill the outbox. What is queued at all stays so with its next version, whatever
-- its tier, for only the version that the documents got is taken out (state_settle.lua).
--
-- KEYS   [1] item, [2] index, [3] ends, [4] queued, [5] outbox, [6] changes
-- ARGV   [1] place, [2] key, [3] "=" and the value or "-", [4] the tier that was named (C, D, I), or the one that the
--        item gets where none is named for it (d), or "" for the one it has, [5] the version that it must have or "",
--        [6] end (seconds) or "-", [7] 1 if the documents have nothing of it, [8] what the names of indexes begin with,
--        [9] milliseconds that a tombstone lives, [10] most entries of the outbox, [11] most changes that are remembered,
--        [12] 1 if promotion chooses tiers: then what nobody named may be in the documents, whatever its tier
-- reply  {0, now, item} conflict, {1, now, version, tier, 1 if it has a value} written, {2} unknown, {3} full
local place, wanted, tier = ARGV[1], ARGV[5], ARGV[4]
local item = read(KEYS[1])
local named = string.find(tier, '%u') ~= nil
if not item and ARGV[7] ~= '1' and (wanted ~= '' or not named) then return {2} end
if wanted ~= '' and tonumber(wanted) ~= (item and alive(item) and item.version or 0) then
  return {0, now, item and redis.call('GET', KEYS[1]) or false}
end
if item and not named and (item.named or tier == '') then tier = item.tier end
if tier == '' then tier = 'c' end
local ends = tonumber(ARGV[6])
local deleted = ARGV[3] == '-' or (ends ~= nil and ends * 1000000 <= now)
if deleted then ends = nil end

local waits = redis.call('HGET', KEYS[4], place)
local queued = lasting(tier) or waits or (item and (lasting(item.tier) or (ARGV[12] == '1' and not item.named)))
local entered = waits and string.find(waits, '^%d+%-%d+$') and #redis.call('XRANGE', KEYS[5], waits, waits) > 0
if queued and not entered and redis.call('XLEN', KEYS[5]) >= tonumber(ARGV[10]) then return {3} end

local version = math.max(now, item and item.version + 1 or 0)
local header = string.format('%.0f %s %.0f %s ', version, tier, now, ends and ARGV[6] or '-')
redis.call('SET', KEYS[1], header .. (deleted and '-' or ARGV[3]))
if queued and not entered then
  redis.call('HSET', KEYS[4], place, redis.call('XADD', KEYS[5], '*', 'place', place))
elseif not queued then
  let_end(KEYS[1], deleted, ends, ARGV[9])
end
sweep(KEYS[3], ARGV[8])
note(KEYS[2], KEYS[3], place, ARGV[2], ends, deleted)
local last = redis.call('XREVRANGE', KEYS[6], '+', '-', 'COUNT', 1)[1]
redis.call('XADD', KEYS[6], 'MAXLEN', '~', ARGV[11], '*', 'place', place, 'version', string.format('%.0f', version),
  'deleted', deleted and 1 or 0, 'before', last and last[1] or '0-0')
return {1, now, version, tier, deleted and 0 or 1}
