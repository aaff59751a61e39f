"""Time that passes for the sessions in a Redis, whose clock can't be moved: everything in it is made older instead."""

from __future__ import annotations

import asyncio
import time

from traffic_cop_middleware.adapters.redis.cluster_link import ClusterLink
from traffic_cop_middleware.adapters.redis.link import Link

LUA = """
-- Make a key older: its TTL, the stamps in a record, the scores of a sorted set of stamps.
local key, millis, micros = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[1]) * 1000
local ttl, kind = redis.call('PTTL', key), redis.call('TYPE', key).ok
if kind == 'hash' then
  for _, field in ipairs({'c', 'e', 't'}) do
    local stamp = redis.call('HGET', key, field)
    if stamp then redis.call('HSET', key, field, string.format('%.0f', tonumber(stamp) - micros)) end
  end
elseif kind == 'zset' then
  local found = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  for i = 1, #found, 2 do
    redis.call('ZADD', key, string.format('%.0f', tonumber(found[i + 1]) - micros), found[i])
  end
end
if ttl >= 0 then redis.call('PEXPIRE', key, math.max(1, ttl - millis)) end
return ttl >= 0 and ttl <= millis and 1 or 0
"""


async def age(link: Link, namespace: str, seconds: float) -> None:
    """Let `seconds` pass for the sessions below a namespace. What runs out by that runs out on the server's clock."""
    links = link.masters if isinstance(link, ClusterLink) else [link]
    keys = [key for each in links for key in await each.ask("KEYS", "*") if key.startswith(namespace.encode())]
    keys = [key for key in keys if not key.endswith((b":workers", b"}:tally"))]
    ending = await asyncio.gather(*(link.ask("EVAL", LUA, 1, key, round(seconds * 1000)) for key in keys))
    deadline = time.monotonic() + 30
    for key, ends in zip(keys, ending, strict=True):
        while ends and await link.ask("EXISTS", key):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{key!r} does not run out")
