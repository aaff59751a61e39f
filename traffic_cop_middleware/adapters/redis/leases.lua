-- A lease: have it or keep it (acquire), or end it before its time (release).
--
-- Theory of operation. A lease is one string, "<token> <ends> <ttl> <holder>": until when it is held on this server's
-- clock, and for how long it was asked for, both in microseconds. It stays for some time after its end, so that the
-- next token is larger although the clock went back meanwhile. One that was released has ended at 0.
--
-- Invariants. While a lease is held, nobody but its holder changes it. A new lease's token is the time in whole
-- microseconds, and more than the one before; renewing keeps it. No lease is held for longer than it was asked for: where
-- the clock went back its end is more than that away, and comes nearer. A key that holds something else is written over.
--
-- KEYS   [1] the lease
-- ARGV   [1] acquire  [2] holder, [3] ttl in microseconds, [4] milliseconds that it stays after its end
--            reply: the token, or nil while another one holds it
--        [1] release  [2] holder, [3] token
--            reply: 1, or 0 where it was not held by them any more
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local token, ends, ttl, holder = 0, 0, 0, nil
local found = redis.pcall('GET', KEYS[1])
if type(found) == 'string' then
  local its_token, its_end, its_ttl, its_holder = string.match(found, '^(%d+) (%d+) (%d+) (.+)$')
  its_token = tonumber(its_token)
  if its_token and its_token < 9007199254740991 then
    token, ends, ttl, holder = its_token, tonumber(its_end), tonumber(its_ttl), its_holder
  end
end

local function lease(its_end, its_ttl, its_holder)
  return string.format('%.0f %.0f %.0f ', token, its_end, its_ttl) .. its_holder
end

if ends > now + ttl then
  ends = now + ttl
  redis.call('SET', KEYS[1], lease(ends, ttl, holder), 'KEEPTTL')
end
local mine = ends > now and holder == ARGV[2]

if ARGV[1] == 'acquire' then
  if ends > now and not mine then return nil end
  if not mine then token = math.max(now, token + 1) end
  ttl = tonumber(ARGV[3])
  local kept = string.format('%.0f', math.ceil(ttl / 1000) + ARGV[4])
  redis.call('SET', KEYS[1], lease(now + ttl, ttl, ARGV[2]), 'PX', kept)
  return token
end

if not mine or tonumber(ARGV[3]) ~= token then return 0 end
redis.call('SET', KEYS[1], lease(0, ttl, holder), 'KEEPTTL')
return 1
