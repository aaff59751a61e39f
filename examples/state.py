"""State in tiers: a cart that goes with the session, a profile that lasts, orders that are kept at once.

    pip install 'traffic-cop-middleware[demo]'
    python examples/state.py            # serves on 8000; state.db holds what lasts

Then try

    curl -c jar -b jar -X POST http://127.0.0.1:8000/login/alice
    curl -c jar -b jar -X PUT  http://127.0.0.1:8000/cart/tea/2          # goes with the session
    curl -c jar -b jar -X PUT  http://127.0.0.1:8000/profile/language/de # alice's, wherever she logs in; lasts
    curl -c jar -b jar -X POST http://127.0.0.1:8000/orders              # in the database when this answers
    curl -c jar -b jar http://127.0.0.1:8000/orders
    curl -N http://127.0.0.1:8000/orders/live                            # in another terminal: each change as it comes
    curl http://127.0.0.1:8000/orders/1/history

With TRAFFIC_COP_BACKEND=redis://localhost:6379/0 several workers share it. Stop it and start it again: the profile
and the orders are there, the cart is not (of a memory backend).
"""

import os
import secrets
from collections.abc import AsyncIterator
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import StreamingResponse

from traffic_cop_middleware import (
    RequestState,
    Session,
    StateConflict,
    TrafficCop,
    require_session,
    session_of,
    state_of,
)

cop = TrafficCop(
    os.environ.get("TRAFFIC_COP_BACKEND", "memory://"),
    documents=os.environ.get("TRAFFIC_COP_DOCUMENTS", "sqlite:///state.db"),
    session_secret=os.environ.get("SESSION_SECRET", secrets.token_urlsafe(32)),
    session_secure=False,  # for http://localhost only
)
app = FastAPI(title="State in tiers")
cop.install(app)

State = Annotated[RequestState, Depends(state_of)]  # it comes in the session's round trip
Owner = Annotated[Session, Depends(require_session)]


@app.post("/login/{name}")  # in an app of yours: with a password
async def login(name: str, session: Annotated[Session, Depends(session_of)]) -> dict[str, str]:
    await session.login(name)
    return {"hello": name}


@app.put("/cart/{article}/{number}")
async def fill(article: str, number: int, owner: Owner, state: State) -> dict[str, Any]:
    state.session[article] = number  # written when the response starts
    return dict(state.session)


@app.put("/profile/{name}/{value}")
async def profile(name: str, value: str, owner: Owner, state: State) -> dict[str, Any]:
    state.user.tier = "delayed"
    state.user[name] = value
    return dict(state.user)


@app.post("/orders")
async def order(owner: Owner, state: State) -> dict[str, Any]:
    if not state.session:
        raise HTTPException(409, "the cart is empty")
    count = await cop.state.update("numbers", "orders", lambda number: (number or 0) + 1, tier="immediate")
    try:
        item = await cop.state.put(
            "orders",
            str(count.value),
            {"by": owner.subject, "cart": dict(state.session), "paid": False},
            create_only=True,
            tier="immediate",
        )
    except StateConflict as exc:
        raise HTTPException(409, str(exc)) from exc
    state.session.clear()
    return {"order": item.key, "version": item.version}


@app.get("/orders")
async def orders() -> dict[str, Any]:
    page = await cop.state.list("orders")
    return {item.key: item.value for item in page.items}


@app.post("/orders/{number}/pay")
async def pay(number: str) -> dict[str, Any]:
    item = await cop.state.patch("orders", number, {"paid": True})
    return {"order": item.key, "version": item.version, **item.value}


@app.get("/orders/live")
async def live() -> StreamingResponse:
    async def lines() -> AsyncIterator[str]:
        async for change in cop.state.watch("orders"):
            yield f"{change.key} version {change.version}{' deleted' if change.deleted else ''}\n"

    return StreamingResponse(lines(), media_type="text/plain")


@app.get("/orders/{number}/history")
async def history(number: str) -> list[dict[str, Any]]:
    revisions = await cop.state.history("orders", number)
    return [{"version": each.version, "value": each.value, "stored_at": each.stored_at} for each in revisions]


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=8000, lifespan="on")
