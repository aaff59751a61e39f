"""Sessions in a browser: a login form, a cart, one's list of sessions, and a page that knows when it was logged out.

    pip install 'traffic-cop-middleware[demo]'
    python examples/sessions.py     # then open http://127.0.0.1:8000 in two tabs, and log out in one of them

or `uvicorn examples.sessions:app --lifespan on`. Chromium and Firefox keep a Secure cookie of http://localhost and
http://127.0.0.1 as well; for a browser that does not (Safari), set SESSION_SECURE=0.
"""

import hashlib
import os
import secrets
from hmac import compare_digest
from html import escape
from typing import Annotated
from urllib.parse import parse_qsl

import uvicorn
from anyio import to_thread
from fastapi import Depends, FastAPI, HTTPException, Request, Response, WebSocket
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import HTMLResponse, RedirectResponse

from traffic_cop_middleware import Session, TrafficCop, by_user, limit, require_session, session_of

secret = os.environ.get("SESSION_SECRET", "")
if not secret:
    secret = secrets.token_urlsafe(32)
    print("SESSION_SECRET is not set: made one for this run. Several workers need the same one, and a shared backend.")

cop = TrafficCop(
    os.environ.get("TRAFFIC_COP_BACKEND", "memory://"),  # redis://localhost:6379/0: sessions outlive a restart
    session_secret=secret,
    session_secure=os.environ.get("SESSION_SECURE", "1") != "0",
)
app = FastAPI(title="Tea shop with sessions")
cop.install(app)
app.routes.extend(cop.session_routes())  # POST /auth/logout, GET /auth/sessions and so on: the page's script calls them


# A toy: a real app has its own table of users, and scrypt or argon2 hashes with a salt for each in it.
def hashed(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=5)


SALT = secrets.token_bytes(16)
USERS = {"alice": hashed("tea-for-two", SALT), "bob": hashed("black-no-sugar", SALT)}
NOBODY = secrets.token_bytes(64)


async def password_is_right(name: str, password: str) -> bool:
    """Takes as long for a name that nobody has, and does not hold up the event loop."""
    return compare_digest(USERS.get(name, NOBODY), await to_thread.run_sync(hashed, password, SALT))


async def form_of(request: Request) -> dict[str, str]:
    """FastAPI's `Form()` does the same, and needs python-multipart."""
    return dict(parse_qsl((await request.body()).decode(errors="replace")))


Anyone = Annotated[Session, Depends(session_of)]  # a session always, anonymous until `login`
LoggedIn = Annotated[Session, Depends(require_session)]  # 401 when nobody is logged in
Form = Annotated[dict[str, str], Depends(form_of)]


@app.exception_handler(401)
async def to_the_login_page(request: Request, exc: HTTPException) -> Response:
    """People are sent to the form; programs get the 401."""
    if "text/html" in request.headers.get("accept", ""):
        return RedirectResponse("/login", 303)
    return await http_exception_handler(request, exc)


@app.get("/login")
async def login_page(session: Anyone, again: bool = False) -> Response:
    if session.authenticated:
        return RedirectResponse("/", 303)
    return login_form(session, message="That form was out of date. Does your browser keep cookies?" if again else "")


@app.post("/login")
@limit("5/minute")  # by address: guessing passwords gets slow
async def log_in(request: Request, session: Anyone, form: Form) -> Response:
    # `login` refuses what another site sends, as told by Sec-Fetch-Site or Origin. For a browser so old that it sends
    # neither there is the hidden field, which is the app's to compare. Whoever saw the form has a session (`id`).
    if not session.id or not compare_digest(form.get("csrf_token", "").encode(), session.csrf_token.encode()):
        return RedirectResponse("/login?again=true", 303)
    name = form.get("name", "")
    if not await password_is_right(name, form.get("password", "")):
        return login_form(session, name, "Wrong name or password.", 403)
    # Claims are signed into the token, attributes stay in the record. What an anonymous session held goes along.
    await session.login(name, claims={"plan": "free"}, device=request.headers.get("user-agent", "")[:120])
    return RedirectResponse("/", 303)


@app.get("/")
async def index(session: LoggedIn) -> Response:
    visits = await session.incr("visits")  # several at once are all counted
    return shop_page(str(session.subject), visits, session.get("cart", []))


@app.post("/cart")
async def add_to_cart(request: Request, session: LoggedIn, form: Form) -> Response:
    cart = request.session.setdefault("cart", [])  # the same record as `session`, as any Starlette app knows it
    cart.append(form.get("item", "")[:60])  # a change within a value is seen; it is written when the response starts
    del cart[:-20]
    return RedirectResponse("/", 303)


@app.get("/api/cart")
@limit("30/minute", key=by_user)  # one bucket for a user, whatever their addresses and sessions
async def cart(session: LoggedIn) -> dict[str, object]:
    return {"owner": session.subject, "plan": session.claims["plan"], "items": session.get("cart", [])}


@app.websocket("/live")
async def live(socket: WebSocket, session: LoggedIn) -> None:
    """Nothing but open: the cop closes it, with code 1008, as soon as the session ends, in whichever worker."""
    await socket.accept()
    async for _ in socket.iter_text():
        pass


def page(body: str, status: int = 200) -> HTMLResponse:
    # no-store: the Back button shows nothing of a user who has logged out
    return HTMLResponse(PAGE.replace("BODY", body), status, {"Cache-Control": "no-store"})


def login_form(session: Session, name: str = "", message: str = "", status: int = 200) -> HTMLResponse:
    values = {"csrf_token": session.csrf_token, "name": escape(name), "message": escape(message)}
    return page(LOGIN.format_map(values), status)


def shop_page(name: str, visits: int, cart: list[str]) -> HTMLResponse:
    items = "".join(f"<li>{escape(item)}" for item in cart) or "<li><i>nothing yet</i>"
    return page(SHOP.format(name=escape(name), visits=visits, items=items) + SCRIPT)


PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Tea shop</title><link rel="icon" href="data:,">
<meta name="viewport" content="width=device-width"><style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 40rem; margin: 2rem auto; padding: 0 1rem }
  input, button { font: inherit; padding: .2rem .6rem } label, label input { display: block; margin: 0 0 .5rem }
  #sessions { padding: 0 } #sessions li { display: flex; justify-content: space-between; gap: 1rem; margin: .5rem 0 }
  #sessions button { white-space: nowrap; align-self: start }
  #live { font-weight: bold; color: #17703a } #live.off, [role=alert] { color: #b3261e }
</style><h1>Tea shop</h1>BODY</html>"""

LOGIN = """
<p role="alert">{message}</p>
<form method="post" action="/login">
  <input type="hidden" name="csrf_token" value="{csrf_token}">
  <label>Name <input name="name" value="{name}" autocomplete="username" required></label>
  <label>Password <input name="password" type="password" autocomplete="current-password" required></label>
  <button>Log in</button>
</form>
<p>Try alice with tea-for-two, or bob with black-no-sugar.</p>"""

SHOP = """
<p id="live" role="status">○ connecting</p>
<p>Logged in as <b>{name}</b>, visit {visits}.
  <button onclick="end('POST', '/auth/logout')">Log out</button></p>
<h2>Cart</h2>
<ul>{items}</ul>
<form method="post" action="/cart"><input name="item" aria-label="Item" maxlength="60" required>
  <button>Add</button></form>
<h2>Your sessions</h2>
<ul id="sessions"></ul>
<button onclick="end('POST', '/auth/logout-all?others=true')">End all others</button>"""

SCRIPT = """<script>
const socket = new WebSocket(location.origin.replace("http", "ws") + "/live")
socket.onopen = () => tell("● live", "on")
socket.onclose = ({ code }) => tell(code === 1008 ? "○ You were logged out elsewhere." : "○ not connected", "off")
function tell(text, state) { live.textContent = text; live.className = state }

async function end(method, url) {
  socket.onclose = null
  await fetch(url, { method })
  location.reload()  // where that was this very session, it leads to the login page
}

async function list() {
  const { sessions } = await (await fetch("/auth/sessions")).json()
  for (const { id, since, attributes, current } of sessions) {
    const row = document.createElement("li"), button = document.createElement("button")
    row.textContent = `${attributes.device}, since ${new Date(since * 1000).toLocaleString()}`
    button.textContent = current ? "End this" : "End"
    button.onclick = () => end("DELETE", `/auth/sessions/${id}`)
    row.append(button)
    document.getElementById("sessions").append(row)
  }
}
list()
</script>"""

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8000")), lifespan="on")
