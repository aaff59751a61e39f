"""A FastAPI app on uvicorn whose metrics go to a collector: FastAPI's own and ours; `test_otlp.py` starts it.

`python -m tests.middleware.otlp_worker LIFESPAN` prints its port. All else is in OpenTelemetry's own variables.
"""

from __future__ import annotations

import contextlib
import socket
import sys

import uvicorn
from fastapi import FastAPI
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

from traffic_cop_middleware import TrafficCop, limit

app = FastAPI()


@app.get("/a/{x}")
async def a(x: int) -> int:
    return x


def main(lifespan: str) -> None:
    cop = TrafficCop(limits=limit("20/hour", name="few"), metrics=True, metrics_otlp=OTLPMetricExporter())
    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    config = uvicorn.Config(cop.wrap(app), lifespan=lifespan, log_level="error")  # type: ignore[arg-type]
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main(sys.argv[1])
