"""The public names as users write them: pyright and mypy read this, nobody runs it."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import Depends, FastAPI, Request
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, Response

from traffic_cop_middleware import (
    THE_APP,
    BusinessMetric,
    CorsPolicy,
    Event,
    FixedResponse,
    InvalidToken,
    Issuer,
    Key,
    MetricsMiddleware,
    OtlpExport,
    Range,
    RateLimitMiddleware,
    Redirect,
    Refusal,
    Registration,
    RoutingMiddleware,
    Session,
    SessionInfo,
    SessionMiddleware,
    Tokens,
    TrafficCop,
    TrafficCopMiddleware,
    Upstream,
    UsageCount,
    by_api_key,
    by_everyone,
    by_ip,
    by_route,
    by_session,
    by_tenant,
    by_user,
    exempt,
    limit,
    reads_session,
    registered,
    require_session,
    route,
    session_of,
    simulate_log,
    simulate_usage,
    suggest_limits,
)


def watch(event: Event) -> None:
    print(event.kind, event.attributes)


def own_answer(connection: HTTPConnection, refusal: Refusal) -> Response:
    return PlainTextResponse(refusal.detail, refusal.status)


async def by_customer(connection: HTTPConnection) -> str | None:
    return connection.headers.get("x-customer")


def by_size(connection: HTTPConnection) -> float:
    return 2.0


async def known(key: str) -> bool:
    return key == "secret"


cop = TrafficCop(
    "redis://localhost:6379/0",
    limits=["100/minute", limit("10/second; 1000/day", key=by_everyone)],
    on_outage={"limits": "allow"},
    trusted_proxies=["10.0.0.0/8"],
    observer=watch,
    limits_on_refusal=own_answer,
)
app = FastAPI()
cop.install(app)
cop.limit("/admin/*", limit("5/minute", key=by_route))
unsubscribe = cop.subscribe(watch)
wrapped = cop.wrap(app)


@app.get("/search")
@limit("10/minute", burst=20, key=by_customer, cost=by_size)
async def search(request: Request, q: str) -> dict[str, str]:
    return {"q": q}


@app.get("/orders")
@limit("3/minute", key=by_api_key(verify=known), methods=["GET"])
@limit("30/hour", key=by_ip, name="orders")
def orders() -> list[str]:
    return []


@app.get("/health")
@exempt
async def health() -> str:
    return "ok"


plain = Starlette()
plain.add_middleware(TrafficCopMiddleware, backend="memory://", limits="100/minute")
plain.add_middleware(RateLimitMiddleware, backend="memory://", limits="100/minute", on_outage="refuse")
plain.add_middleware(RateLimitMiddleware, limts="100/minute")  # type: ignore[call-arg]  # a typo is an error
plain.add_middleware(TrafficCopMiddleware, limits=1)  # type: ignore[arg-type]  # and so is a wrong type


# Sessions

with_sessions = TrafficCop(
    session_secret=[Key("a secret of at least thirty-two bytes"), "an older one, which still verifies tokens"],
    session_idle=3600,
    session_limit=5,
    session_on_limit="refuse",
    session_trusted_origins=["https://app.example.com"],
    session_issuers=[Issuer("https://idp.example.com", jwks_url="https://idp.example.com/jwks.json", audience="shop")],
)
app.routes.extend(with_sessions.session_routes(prefix="/auth"))


@reads_session
def by_team(connection: HTTPConnection) -> str | None:
    team = session_of(connection).get("team")
    return team if isinstance(team, str) else None


@app.post("/login")
@limit("5/minute", key=by_ip)
async def login(request: Request) -> Tokens:
    session = session_of(request)
    session["theme"] = "dark"
    return await session.login("alice", claims={"tenant": "acme"}, plan="pro")


@app.get("/me")
@limit("100/minute", key=by_user)
@limit("1000/minute", key=by_tenant)
@limit("10/second", key=by_session)
@limit("50/second", key=by_team)
async def me(session: Annotated[Session, Depends(require_session)]) -> dict[str, object]:
    visits: int = await session.incr("visits")
    await session.update("seen", lambda seen: [*(seen or []), visits])
    return {"owner": session.subject, "theme": session.get("theme"), "csrf": session.csrf_token}


async def end_others(session: Session) -> list[SessionInfo]:
    try:
        verified = await with_sessions.sessions.verify("a token")
    except InvalidToken:
        return []
    management = with_sessions.session_management
    await management.revoke_user(str(verified.subject), keep=session.id)
    return list(await management.sessions_of(str(verified.subject)))


Starlette().add_middleware(
    SessionMiddleware, secret="a secret of at least thirty-two bytes", idle=3600, same_site="lax"
)


def gateway() -> Starlette:
    cop = TrafficCop(
        cors={"app": CorsPolicy(origins=["https://app.example.com"], credentials=True)},
        proxy_routes=[route("/old/*", to=Redirect("https://new.example.com", keep_path=True))],
    )
    instances = [Upstream("http://billing-1:8080", weight=3), Upstream("https://billing-2", ca="ca.pem")]
    cop.route("/billing/*", to=instances, strip_prefix="/billing", limits="10/minute", cors="app")
    cop.route("/shop/*", to=FixedResponse(503, "Back at noon.", headers={"Retry-After": "3600"}), priority=1)
    cop.route("/shop/health", to=THE_APP)
    cop.route("/billing/*", to="http://x", strp_prefix="/billing")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    app = Starlette()
    app.add_middleware(RoutingMiddleware, routes=[route("/a/*", to="http://a:8080")], backend="redis://localhost")
    app.add_middleware(RoutingMiddleware, rotes=[])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    cop.install(app)
    return app


async def while_it_runs(cop: TrafficCop) -> None:
    version: int = await cop.routes.put("/billing/*", to="http://billing:8080", name="billing")
    await cop.routes.change([route("/a", to=FixedResponse(204))], remove=["billing"], at=version)
    names: list[str] = [each.name for each in await cop.routes.list()]
    await cop.limits.put("search", "5/minute", burst=10)
    await cop.limits.put("brake", "1000/second", paths="/*", key="everyone")
    left: list[int] = [level.remaining for level in await cop.limits.show("search", "203.0.113.7")]
    await cop.limits.reset("search", names[0] if left else "alice")
    await cop.cors.put("app", CorsPolicy(origins="*"))


# Services

announced = Starlette(
    lifespan=registered("billing", url="http://10.0.0.5:8080", backend="redis://localhost", metadata={"zone": "a"})
)
registered("billing", url="http://10.0.0.5:8080", bakend="redis://localhost")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def as_a_service() -> None:
    async with Registration("billing", url="http://10.0.0.5:8080", backend="redis://localhost", ttl=5) as registration:
        await registration.change(weight=0, metadata={"zone": "b"})
        known: bool = registration.announced
        print(known, registration.instance.name)


# Metrics

exported = TrafficCop(metrics=True, metrics_otlp=OTLPMetricExporter())
plain.add_middleware(MetricsMiddleware, otlp=OtlpExport(OTLPMetricExporter(), interval=30, requests=True))
TrafficCop(metrics=True, metrics_otlp="http://collector:4318")  # type: ignore[arg-type]  # an exporter, and no URL


async def of_the_past() -> None:
    week = await cop.analytics.traffic("7d", by="tenant", step=timedelta(days=1))
    errors: list[int] = [point.total.errors for point in week.points]
    p95: float | None = (await cop.analytics.percentiles(Range(0.0, 60.0), route="/search", method="GET")).p95
    slow: list[str] = [each.name for each in await cop.analytics.top(5, order="p95", range=timedelta(hours=1))]
    ratio: float | None = (await cop.analytics.compare("24h", Range(0.0, 60.0))).total.rate_ratio
    print(errors, p95, slow, ratio)
    await cop.analytics.traffic(by="colour")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def advice() -> None:
    found = simulate_log("access.log", ["100/minute", limit("5/second", key=by_route)], by="user", window=10)
    print(found.share_refused[0], [each.refused.low for each in found.who], found)
    bounds = simulate_usage([UsageCount("alice", 0, 60, 12)], "10/minute", by="user")
    print(bounds.refused.low, bounds.refused.high, [each.limit for each in suggest_limits("access.log", by=by_user)])


shop = TrafficCop(
    metrics=True,
    business_metrics=[BusinessMetric("orders", "count", attributes={"plan": ["free"], "shop": 50}, unit="1")],
    business_metrics_cost=lambda route, method, status, seconds, bytes_out: 0.001 * seconds,
)
BusinessMetric("orders", "counter")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def of_the_business() -> None:
    shop.business_metrics.count("orders", 3, plan="free", shop=7)
    shop.business_metrics.observe("basket", 19.99)
    value: float | None = (await shop.business_metrics.read("orders", "7d", by="plan", step="1d")).points[0].total.value
    change: float | None = (await shop.business_metrics.trends("orders")).groups["free"].week_change
    cost: float = (await shop.business_metrics.usage("30d", by="api_key")).total.cost
    print(value, change, cost, "".join([piece async for piece in shop.business_metrics.export(format="json")]))
    await shop.business_metrics.usage(by="status")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
