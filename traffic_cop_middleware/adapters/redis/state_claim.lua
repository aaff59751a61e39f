-- Claim entries of a partition's outbox: those that somebody claimed too long ago and never settled, then new ones.
--
-- Items are read at their newest version, in the same step. The group is made here, where there is none: the stream was
-- written for the first time, or for the first time after everything was lost. Its one consumer stands for all workers,
-- for who claimed what matters to nobody but an operator, and consumers are never forgotten; `queued` has the worker.
--
-- KEYS   [1] outbox, [2] queued
-- ARGV   [1] group, [2] worker, [3] most entries, [4] milliseconds after which a claim is nobody's any more, [5] what
--        the keys of items begin with, [6] bytes after which no further one is added, [7] bytes of the largest item that
--        is given: a larger one is claimed by nobody
-- reply  1 where there are larger ones, then for each: id, how often it was claimed before, place, item
local most, idle, largest = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[7])
local reply, bytes = {0}, 0
if redis.call('XLEN', KEYS[1]) == 0 then return reply end

local function give(entry, tries)
  local place = entry[2] and entry[2][2]
  local item = place and read(ARGV[5] .. place)
  if not item then -- nothing is left to be kept
    redis.call('XACK', KEYS[1], ARGV[1], entry[1])
    redis.call('XDEL', KEYS[1], entry[1])
    if place then redis.call('HDEL', KEYS[2], place) end
    return
  end
  local key = ARGV[5] .. place
  if redis.call('STRLEN', key) > largest then -- as one that was claimed in 1970, so that it comes next
    redis.call('XCLAIM', KEYS[1], ARGV[1], 'workers', 0, entry[1], 'TIME', 0, 'RETRYCOUNT', tries, 'JUSTID')
    reply[1] = 1
    return
  end
  redis.call('HSET', KEYS[2], place, 'claimed ' .. ARGV[2])
  local text = redis.call('GET', key)
  for _, part in ipairs({entry[1], tries, place, text}) do reply[#reply + 1] = part end
  bytes = bytes + #text
end

local function enough()
  return #reply > 4 * most or bytes > tonumber(ARGV[6])
end

local from, claimed = '-', nil
for _ = 1, 10 do -- pages: a thousand that are being flushed at present hide no other for long
  claimed = redis.pcall('XPENDING', KEYS[1], ARGV[1], from, '+', 100)
  if claimed.err then break end
  for _, each in ipairs(claimed) do
    if enough() then return reply end
    if each[3] >= idle then
      local entry = redis.call('XCLAIM', KEYS[1], ARGV[1], 'workers', ARGV[4], each[1])[1]
      if entry then give(entry, each[4]) end
    end
  end
  if #claimed < 100 then break end
  local ms, turn = string.match(claimed[100][1], '^(%d+)%-(%d+)$')
  from = ms .. '-' .. string.format('%.0f', tonumber(turn) + 1)
end
if claimed.err then
  if not string.find(claimed.err, 'NOGROUP', 1, true) then return claimed end
  redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0')
end
for _ = 1, most + 10 do -- some may be too large, or of lost items
  if enough() then break end
  local new = redis.call('XREADGROUP', 'GROUP', ARGV[1], 'workers', 'COUNT', 1, 'STREAMS', KEYS[1], '>')
  if not new or not new[1] or not new[1][2][1] then break end
  give(new[1][2][1], 0)
end
return reply
