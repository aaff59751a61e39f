"""One worker process of `test_table_changes.py`: a cop on a shared Redis, told by lines on its input what to do.

`python -m tests.gateway.table_worker <redis URL>`. It writes "ready", and answers each line: "put N" changes the route
and the limit, "see" tells what this worker goes by, "end" ends it.
"""

from __future__ import annotations

import asyncio
import sys

from starlette.applications import Starlette

from tests.adapters.load import started
from tests.asgi import headers, http_scope, send_through
from traffic_cop_middleware import FixedResponse, TrafficCop, limit


def say(*words: object) -> None:
    sys.stdout.write(" ".join(str(word) for word in words) + "\n")
    sys.stdout.flush()


async def main(url: str) -> None:
    cop = TrafficCop(url, limits=[limit("1000/hour", name="all")], deadline=5.0)
    cop.route("/*", to=FixedResponse(200, headers={"x-number": "0"}), name="page")
    wrapped = cop.wrap(Starlette())
    read = asyncio.get_running_loop().run_in_executor
    async with started(wrapped):
        say("ready")
        while (line := (await read(None, sys.stdin.readline)).split()) and line[0] != "end":
            if line[0] == "put":
                page = FixedResponse(200, headers={"x-number": line[1]})
                await cop.routes.put("/*", to=page, name="page")
                await cop.limits.put("all", f"{1000 + int(line[1])}/hour")
            found = headers(await send_through(wrapped, http_scope("/x")))
            say(found["x-number"], found["ratelimit-policy"])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
