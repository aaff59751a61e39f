"""Promotion: what deserves to last gets there by itself, for reasons that one can read; files, lineage, and back again.

    pip install 'traffic-cop-middleware[demo]'
    python examples/promotion.py        # prints a tour, then serves on 8000; data/ holds what lasts

Then try

    curl -c jar -b jar -X POST http://127.0.0.1:8000/login/alice
    curl -c jar -b jar -X PUT  http://127.0.0.1:8000/settings/theme/dark   # stays in memory: so little
    curl -c jar -b jar -X PUT  http://127.0.0.1:8000/settings/plan/gold    # a hook of ours: plans are kept at once
    curl -c jar -b jar http://127.0.0.1:8000/why                           # where it is, and all the reasons
    curl http://127.0.0.1:8000/files/order/1                               # the files of an order, and their lineage

With TRAFFIC_COP_BACKEND=redis://localhost:6379/0 several workers share it; with TRAFFIC_COP_FILES=gs://bucket/prefix
and TRAFFIC_COP_FILE_METADATA=supabase+https://key@project.supabase.co the files are there.
"""

import contextlib
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import PlainTextResponse

from traffic_cop_middleware import (
    RequestState,
    Session,
    StateItem,
    TrafficCop,
    Verdict,
    require_session,
    session_of,
    state_of,
)

DATA = Path(os.environ.get("TRAFFIC_COP_DATA", "data")).absolute()
DATA.mkdir(exist_ok=True)

cop = TrafficCop(
    os.environ.get("TRAFFIC_COP_BACKEND", "memory://"),
    documents=os.environ.get("TRAFFIC_COP_DOCUMENTS", f"sqlite:///{DATA}/state.db"),
    files=os.environ.get("TRAFFIC_COP_FILES", f"file://{DATA}/files"),
    file_metadata=os.environ.get("TRAFFIC_COP_FILE_METADATA", f"sqlite:///{DATA}/files.db"),
    session_secret=os.environ.get("SESSION_SECRET", secrets.token_urlsafe(32)),
    session_secure=False,  # for http://localhost only
)


@cop.promotion_hook  # may be async too
def plans_are_kept_at_once(state: StateItem, verdict: Verdict) -> Verdict:
    if state.namespace == "user" and "plan" in state.value:
        return verdict.at_least("immediate", "somebody pays for this")
    return verdict


async def tour() -> None:
    """What is judged how, and a file with its lineage."""
    print("== Verdicts")
    states: dict[str, Any] = {
        "visit": {"page": "/", "seconds": 12},
        "payment": {"type": "payment", "amount": 90, "currency": "EUR", "user_id": "alice"},
        "report": {"rows": [{"day": day, "visits": day * 7 % 100, "note": "n" * 200} for day in range(2000)]},
    }
    for namespace, value in states.items():
        await cop.state.put(namespace, "1", value)  # no tier: promotion chooses one
        print(await cop.state.explain(namespace, "1"))
        await cop.state.flush()  # that comes by itself, within a second
        print("so it is", await cop.state.get(namespace, "1"))
        for file in await cop.files.of_item(namespace, "1"):
            print("and", file)
        print()

    print("== A file, a change, and a restore as a new version")
    await cop.state.put("order", "1", {"articles": ["tea"], "paid": False}, tier="immediate")
    first = await cop.files.promote("order", "1")
    await cop.state.patch("order", "1", {"articles": ["tea", "milk"], "paid": True})
    second = await cop.files.promote("order", "1")
    restored = await cop.files.restore(first)
    item = await cop.state.get("order", "1")
    print(f"{item}: {item.value if item else None}")
    print(await cop.files.lineage(restored.file), "\n")

    print("== A backup, and what is left over")
    backup = await cop.files.backup(["order", "payment"], name="nightly")
    print(await cop.files.lineage(backup))
    await cop.files.delete(second, reason="the tour is over")
    print(await cop.files.collect_garbage(grace=0.001, dry_run=True))


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    await tour()
    yield


app = FastAPI(title="Promotion", lifespan=lifespan)
cop.install(app)

State = Annotated[RequestState, Depends(state_of)]
Owner = Annotated[Session, Depends(require_session)]


@app.post("/login/{name}")  # in an app of yours: with a password
async def login(name: str, session: Annotated[Session, Depends(session_of)]) -> dict[str, str]:
    await session.login(name)
    return {"hello": name}


@app.put("/settings/{name}/{value}")
async def settings(name: str, value: str, owner: Owner, state: State) -> dict[str, Any]:
    state.user[name] = value  # written when the response starts, and judged after that
    return dict(state.user)


@app.get("/why")
async def why(owner: Owner) -> PlainTextResponse:
    explained = await cop.state.explain("user", owner.subject or "")
    return PlainTextResponse(f"{explained or 'nothing is kept of you'}\n")


@app.get("/files/{namespace}/{key}")
async def files(namespace: str, key: str) -> PlainTextResponse:
    found = await cop.files.of_item(namespace, key)
    if not found:
        raise HTTPException(404, "it has no files")
    return PlainTextResponse(f"{await cop.files.lineage(found[-1])}\n")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=8000, lifespan="on")
