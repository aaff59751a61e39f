-- Write data of a session: merge, add or swap. Three ways to find out what is to be written, one to write it.
--
-- Invariants. A session that does not exist is not made. n is the sum of the bytes of the names and texts, and above
-- `most` nothing is written. v counts up by 1 with every write.
--
-- KEYS   [1] record, [2] generation
-- ARGV   [1] the generation that the caller knows, [2] idle in milliseconds, [3] most bytes, [4] which, and then
--        'merge': how many names to delete, those names, and name, text of each to write
--        'add': name, amount
--        'swap': name, before, after: each '-' for nothing, or '=' and the text
-- reply  nothing where there is no session; 'size', bytes; 'type'; or 1 (2: the end is nearer now), kind, when it ends
--        (stamp), and the answer: merge the version, add the sum, swap 1 or 0
local record = KEYS[1]
local generation = generation_at(KEYS[2])
local known = generation == ARGV[1] and session(record, generation)
if not known then return false end

local which, names, texts, answer = ARGV[4], {}, {}, nil
if which == 'merge' then
  local last = 5 + tonumber(ARGV[5])
  for i = 6, last do
    names[#names + 1], texts[#names + 1] = ARGV[i], false
  end
  for i = last + 1, #ARGV, 2 do
    names[#names + 1], texts[#names + 1] = ARGV[i], ARGV[i + 1]
  end
elseif which == 'add' then
  local before = redis.call('HGET', record, ':' .. ARGV[5]) or '0'
  if #before > 17 or not (string.find(before, '^%-?[1-9]%d*$') or string.find(before, '^%-?0$')) then return {'type'} end
  answer = tonumber(before) + tonumber(ARGV[6])
  if math.max(math.abs(tonumber(before)), math.abs(answer)) >= 9007199254740992 then return {'type'} end
  names[1], texts[1] = ARGV[5], whole(answer)
else
  local before = redis.call('HGET', record, ':' .. ARGV[5])
  answer = 0
  if (before and '=' .. before or '-') == ARGV[6] then
    answer = 1
    names[1], texts[1] = ARGV[5], string.sub(ARGV[7], 1, 1) == '=' and string.sub(ARGV[7], 2)
  end
end

if #names > 0 then
  local size = known.size
  for i, name in ipairs(names) do
    local length = redis.call('HSTRLEN', record, ':' .. name)
    if length > 0 or redis.call('HEXISTS', record, ':' .. name) == 1 then size = size - #name - length end
    if texts[i] then size = size + #name + #texts[i] end
  end
  if size > tonumber(ARGV[3]) then return {'size', size} end
  for i, name in ipairs(names) do
    if texts[i] then
      redis.call('HSET', record, ':' .. name, texts[i])
    else
      redis.call('HDEL', record, ':' .. name)
    end
  end
  known.version = known.version + 1
  redis.call('HSET', record, 'n', whole(size), 'v', whole(known.version))
end
local expires, nearer = begin_idle(record, known.ends, ARGV[2])
return {nearer and 2 or 1, known.kind, expires, answer or known.version}
