-- Take over items that the documents have, each where there is nothing or an older version. No watcher hears.
--
-- What waits for the documents at an older version has lost against them, and waits no longer.
--
-- KEYS   [1] ends, [2] queued
-- ARGV   [1] what the keys of items begin with, [2] and the names of indexes, [3] milliseconds that a tombstone lives,
--        then for each: place, "<tenant> NUL <namespace>", key, version, text, end (seconds) or "-"
-- reply  nothing
sweep(KEYS[1], ARGV[2])
for i = 4, #ARGV, 6 do
  local place, key = ARGV[i], ARGV[1] .. ARGV[i]
  local there = read(key)
  if not there or there.version < tonumber(ARGV[i + 3]) then
    local ends = tonumber(ARGV[i + 5])
    local text = ARGV[i + 4]
    local deleted = string.find(text, '^%d+ %a %d+ %S+ %-') or (ends ~= nil and ends * 1000000 <= now)
    if deleted then text = string.match(text, '^%d+ %a %d+ ') .. '- -' end
    redis.call('SET', key, text)
    redis.call('HDEL', KEYS[2], place)
    let_end(key, deleted, ends, ARGV[3])
    note(ARGV[2] .. ARGV[i + 1], KEYS[1], place, ARGV[i + 2], ends, deleted)
  end
end
return 0
