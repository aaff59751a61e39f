"""An ASGI app on uvicorn that announces itself by its lifespan.

`python -m tests.gateway.announced_app PORT REGISTRATION` prints its port, and answers as `tests.gateway.faulty` does.
uvicorn itself ends it at SIGTERM.
"""

from __future__ import annotations

import json
import os
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from traffic_cop_middleware import registered


async def answer(request: Request) -> PlainTextResponse:
    await request.body()
    return PlainTextResponse(f"{os.getpid()} {request.url.path}")


def main(port: int, registration: str) -> None:
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    lifespan = registered("billing", url=f"http://127.0.0.1:{port}", **json.loads(registration))
    app = Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])], lifespan=lifespan)
    uvicorn.run(app, host="127.0.0.1", port=port, access_log=False, log_level="error", ws="none")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
