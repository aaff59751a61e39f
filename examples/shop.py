"""A small FastAPI shop with the cop in front of it.

Run it with `uvicorn examples.shop:app --lifespan on`, or see it at work with `python3 scripts/demo.py`.
`TRAFFIC_COP_BACKEND=redis://localhost:6379/0` keeps the buckets in Redis, for many workers or hosts.
"""

import os
from collections import Counter
from typing import Annotated

from fastapi import FastAPI, Header, HTTPException
from pydantic import BaseModel

from traffic_cop_middleware import TrafficCop, by_api_key, exempt, limit

PRODUCTS = {1: "green tea", 2: "black tea", 3: "tea pot", 4: "coffee beans", 5: "coffee mill"}
CUSTOMERS = {"alice-key": "alice", "bob-key": "bob"}  # in a real shop: a table of hashed keys

cart: Counter[str] = Counter()

cop = TrafficCop(
    os.environ.get("TRAFFIC_COP_BACKEND", "memory://"),
    limits="60/minute",  # per client address, over all routes; the routes' own limits add to it
)
app = FastAPI(title="Tea shop")
cop.install(app)


class Order(BaseModel):
    product: int
    quantity: int = 1


def product(number: int) -> str:
    if number not in PRODUCTS:
        raise HTTPException(404, f"There is no product {number}.")
    return PRODUCTS[number]


@app.get("/health")
@exempt
async def health() -> dict[str, str]:
    return {"status": "open"}


@app.get("/products")
async def products() -> dict[int, str]:
    return PRODUCTS


@app.get("/search")
@limit("30/minute", burst=5, name="search")  # a token every two seconds; five may be spent at once
async def search(q: str = "") -> list[str]:
    return [name for name in PRODUCTS.values() if q.lower() in name]


@app.post("/cart/{number}", status_code=201)
@limit("10/minute", name="cart")
async def add_to_cart(number: int) -> Counter[str]:
    cart[product(number)] += 1
    return cart


@app.post("/orders", status_code=201)
@limit("3/minute", key=by_api_key(verify=CUSTOMERS.get), name="orders")  # by customer; a stranger's key: by address
async def checkout(order: Order, x_api_key: Annotated[str, Header()] = "") -> dict[str, str | int]:
    return {
        "customer": CUSTOMERS.get(x_api_key, "guest"),
        "product": product(order.product),
        "quantity": order.quantity,
    }
