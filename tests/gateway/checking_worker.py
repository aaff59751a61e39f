"""A gateway in a process of its own that checks a service: `python -m tests.gateway.checking_worker REDIS`.

It writes the states of the instances, by name, whenever they change.
"""

from __future__ import annotations

import asyncio
import sys

from starlette.applications import Starlette

from tests.adapters.load import started
from traffic_cop_middleware import HealthCheck, Service, TrafficCop


async def main(url: str) -> None:
    cop = TrafficCop(url, deadline=5.0)
    cop.route("/*", to=Service("billing", check=HealthCheck(interval=0.1, healthy=2, unhealthy=2, deadline=2.0)))
    before = ""
    async with started(cop.wrap(Starlette())):
        while True:
            [pool] = cop.balancing.pools()
            found = " ".join(each.state for each in sorted(pool.instances, key=lambda each: each.name))
            if found != before:
                sys.stdout.write(f"{found}\n")
                sys.stdout.flush()
            before = found
            await asyncio.sleep(0.01)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
