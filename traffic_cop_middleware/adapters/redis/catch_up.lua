-- The messages of a topic that a reader has not seen, oldest first, at most a page of them: the reader asks again.
--
-- The log's last entry is the counter's version (publish.lua), so the next unseen one stands as many places from the
-- end as the reader is behind. Whether it continues what the reader knows, the reader sees by its stamps.
--
-- KEYS   [1] counter, [2] log: one slot
-- ARGV   [1] the version that was seen last, [2] most messages, [3] bytes after which no further one is added
-- reply  the topic's position as the counter holds it ("" where there is none), then messages
local position = redis.pcall('GET', KEYS[1])
if type(position) ~= 'string' then return {''} end
local version = tonumber(string.match(position, '^(%d+) %d+$'))
local behind = version and version - tonumber(ARGV[1]) or 0
if behind <= 0 or behind > 1000000 then return {position} end
local last = math.min(-1, tonumber(ARGV[2]) - behind - 1)
local messages = redis.pcall('LRANGE', KEYS[2], string.format('%.0f', -behind), string.format('%.0f', last))
if messages.err then return {position} end
local reply, bytes = {position}, 0
for _, message in ipairs(messages) do
  if bytes > tonumber(ARGV[3]) then break end
  reply[#reply + 1] = message
  bytes = bytes + #message
end
return reply
