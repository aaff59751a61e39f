"""A setting that can't work fails where it is written and says what to write."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from traffic_cop_middleware import (
    ConfigurationError,
    Issuer,
    MetricsMiddleware,
    MissingExtra,
    PromotionMiddleware,
    RateLimitMiddleware,
    RoutingMiddleware,
    Service,
    SessionMiddleware,
    TrafficCop,
    TrafficCopError,
    TrafficCopMiddleware,
    Upstream,
    by_api_key,
    by_ip,
    by_user,
    limit,
    route,
    simulate_log,
)

SECRET = "a secret of more than thirty-two bytes"
PEM = b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAAA\n-----END PRIVATE KEY-----\n"


async def app(scope: Any, receive: Any, send: Any) -> None: ...


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"limits": "100 per fortnight"}, "'100 per fortnight' is not a rate. Write a count, a slash and second"),
        ({"limits": "fast"}, "'100/minute'"),
        ({"limits": ""}, "'100/minute'"),
        ({"limits": "0/minute"}, "a count is from 1"),
        ({"limits": "5/0 seconds"}, "a count is from 1"),
        ({"limits": "-5/minute"}, "is not a rate"),
        ({"limits": "9999999999999/minute"}, "a count is from 1 to"),
        ({"limits": 100}, "limits=100: write a string like '100/minute'"),
        ({"limits": [None]}, "write a string like"),
        ({"limits": "100/minute;"}, "'' is not a rate"),
        ({"backend": "postgres://db"}, r"postgres:// is not known here. Write one of memory://, redis://"),
        ({"backend": "localhost:6379"}, "this is no URL: it begins with no scheme"),
        ({"backend": "memory://?size=3"}, "there is max_keys"),
        ({"backend": "memory://?max_keys=0"}, "a whole number from 1"),
        ({"backend": "memory:///tmp"}, "'memory://' or 'memory://name'"),
        ({"backend": None}, "not a NoneType"),
        ({"on_outage": "ignore"}, "is one of 'local', 'allow', 'refuse'"),
        ({"on_outage": {"limits": "panic"}}, "is one of 'local', 'allow', 'refuse'"),
        ({"on_outage": {"limit": "allow"}}, "'limit' is no part; there are 'limits' and 'sessions'"),
        ({"on_outage": None}, "is one of 'local', 'allow', 'refuse'"),
        ({"deadline": 0}, "deadline=0: seconds"),
        ({"deadline": "50ms"}, "deadline='50ms': seconds"),
        ({"deadline": float("nan")}, "deadline=nan: seconds"),
        ({"expected_workers": 0}, "a whole number from 1"),
        ({"namespace": "{tc}"}, "without braces"),
        ({"namespace": ""}, "a short word such as 'tc'"),
        ({"trusted_proxies": ["nginx"]}, "Write the proxies' networks"),
        ({"observer": "print"}, "must be a plain function of one event"),
        ({"limits_fields": "yes"}, "must be True or False"),
        ({"limits_on_refusal": 429}, "must be a function of the connection and the refusal"),
        ({"on_outage": {"sessions": "allow"}}, "for 'sessions' there is 'refuse' only"),
        ({"session_secret": "short"}, "session_secret: "),
        ({"session_secret": ""}, "session_secret: "),
        ({"session_secret": []}, "session_secret"),
        ({"session_secret": 5}, "not a int"),
        ({"session_secret": SECRET, "session_algorithm": "HS512"}, "algorithm='HS512': one of 'HS256'"),
        ({"session_secret": SECRET, "session_algorithm": "none"}, "algorithm='none': one of 'HS256'"),
        ({"session_secret": SECRET, "session_algorithm": "RS256"}, "PEM"),
        ({"session_same_site": "none", "session_secure": False}, "Leave session_secure on"),
        ({"session_same_site": "Lax"}, "one of 'lax', 'strict', 'none'"),
        ({"session_secure": "no"}, "must be True, or False for http://localhost"),
        ({"session_cookie": "a;b"}, "a cookie's name has"),
        ({"session_cookie": "__Host-s", "session_secure": False}, "Choose a name without that prefix"),
        ({"session_csrf": None}, "must be True or False"),
        ({"session_csrf": "form"}, "must be True or False, or 'forms'"),
        ({"session_csrf": 1}, "must be True or False, or 'forms'"),
        ({"session_trusted_origins": ["app.example.com"]}, "an origin is 'https://app.example.com'"),
        ({"session_trusted_origins": "https://app.example.com:443"}, "of the scheme: write 'https://app.example.com'"),
        ({"session_trusted_origins": ["https://app.example.com/"]}, "a final '/': 'https://app.example.com'"),
        (
            {"session_trusted_origins": ["https://App.example.com"]},
            "in lower case and without a final '/': 'https://ap",
        ),
        ({"session_trusted_origins": ["https://me@app.example.com"]}, "an origin is 'https://app.example.com'"),
        ({"session_trusted_origins": ["wss://app.example.com"]}, "its page's origin: write 'https://app.example.com'"),
        (
            {"session_trusted_origins": ["ws://app.example.com:81"]},
            "its page's origin: write 'http://app.example.com:81'",
        ),
        ({"session_trusted_origins": ["null"]}, "any page can have that origin"),
        ({"session_trusted_origins": ["https://*.example.com"]}, "list each"),
        ({"session_trusted_origins": [7]}, "session_trusted_origins=7: an origin is text"),
        ({"session_trusted_origins": 7}, "session_trusted_origins=7: a list of origins"),
        ({"session_idle": 0}, "session_idle=0: seconds from 1"),
        ({"session_idle": 40 * 86_400}, "(session_lifetime)"),
        ({"session_lifetime": float("inf")}, "session_lifetime=inf"),
        ({"session_access": "10 minutes"}, "session_access='10 minutes': seconds"),
        ({"session_grace": -1}, "session_grace=-1: seconds from 0 to 60"),
        ({"session_limit": 0}, "session_limit=0: how many sessions"),
        ({"session_on_limit": "block"}, "'end_oldest', or 'refuse'"),
        ({"session_size": 10}, "session_size=10: bytes from 256"),
        ({"session_secret": SECRET, "session_issuer": ""}, "issuer=''"),
        ({"session_secret": SECRET, "session_issuers": ["https://idp"]}, "Issuer"),
        (
            {
                "session_secret": SECRET,
                "session_issuers": [Issuer("traffic-cop", audience="a", jwks_url="https://idp/k")],
            },
            "Write another session_issuer=",
        ),
        ({"limits": limit("5/minute", key=by_user)}, "by_user needs sessions"),
    ],
)
def test_a_bad_setting_names_the_mend(settings: dict[str, Any], says: str) -> None:
    for make in (TrafficCop, lambda **kwargs: TrafficCopMiddleware(app, **kwargs)):
        with pytest.raises(ConfigurationError) as caught:
            make(**settings)
        assert says in str(caught.value)
        assert isinstance(caught.value, (TrafficCopError, ValueError))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "secrets.token_urlsafe(32)"),
        ({"secret": None}, "secrets.token_urlsafe(32)"),
        ({"secret": SECRET, "session_idle": 5}, "did you mean idle=?"),
        ({"secret": SECRET, "samesite": "lax"}, "did you mean same_site=?"),
        ({"secret": SECRET, "limits": "5/minute"}, "SessionMiddleware has no setting 'limits'"),
    ],
)
def test_sessions_alone_say_what_they_need(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        SessionMiddleware(app, **settings)
    assert says in str(caught.value)


def test_no_message_holds_a_secret() -> None:
    for secret in ("hunter2", b"hunter2", ["hunter2"], [SECRET, SECRET], {"a": "hunter2"}):
        with pytest.raises(ConfigurationError) as caught:
            TrafficCop(session_secret=secret)  # type: ignore[arg-type]
        assert "hunter2" not in str(caught.value)
        assert SECRET not in str(caught.value)


def test_sessions_that_are_not_configured_say_so() -> None:
    cop = TrafficCop()
    for ask in (lambda: cop.sessions, lambda: cop.session_management, cop.session_routes):
        with pytest.raises(ConfigurationError, match=r"TrafficCop\(session_secret=…\)"):
            ask()
    cop = TrafficCop(session_secret=SECRET)
    with pytest.raises(ConfigurationError, match="in a request, or in the app's lifespan"):
        _ = cop.sessions
    with pytest.raises(ConfigurationError, match="a path such as '/auth'"):
        cop.session_routes(prefix="auth/")


def test_an_observer_that_must_be_awaited_is_refused() -> None:
    async def observer(event: Any) -> None: ...

    with pytest.raises(ConfigurationError, match="plain function"):
        TrafficCop(observer=observer)


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"burst": -1}, "burst=-1: a bucket holds from 1"),
        ({"burst": 0.5}, "a bucket holds from 1"),
        ({"burst": "20"}, "a bucket holds from 1"),
        ({"burst": float("inf")}, "a bucket holds from 1"),
        ({"cost": 11}, "cost=11 must be a number from 0 up to the bucket's capacity, 10"),
        ({"cost": -1}, "cost=-1 must be"),
        ({"cost": float("nan")}, "cost=nan must be"),
        ({"cost": True}, "cost=True must be"),
        ({"key": "ip"}, "key='ip' must be by_ip"),
        ({"key": str}, "must be by_ip"),
        ({"name": ""}, "1 to 64 printable ASCII"),
        ({"name": "a\nb"}, "printable ASCII"),
        ({"name": "{x}"}, "braces"),
        ({"name": 'say "hi"'}, "quotes"),
        ({"methods": "GET"}, r"methods='GET' must be a list, as in ['GET']"),
        ({"methods": []}, "must be names of methods"),
        ({"methods": [None]}, "must be names of methods"),
    ],
)
def test_a_bad_limit_names_the_mend(kwargs: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        limit("10/minute", **kwargs)
    assert says in str(caught.value)


def test_one_burst_for_several_rates_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="several rates"):
        limit("10/second; 1000/day", burst=20)


def test_a_verify_that_is_no_function_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="verify is a function of the key"):
        by_api_key(verify="secret")  # type: ignore[call-overload]


@pytest.mark.parametrize("pattern", ["admin/*", "/admin", "/a*/b/*", "*", 7])
def test_a_subtree_is_a_prefix_and_a_star(pattern: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"as in '/admin/\*'"):
        TrafficCop().limit(pattern, "1/minute")


@pytest.mark.parametrize(
    "make",
    [
        lambda: TrafficCop(limts="1/minute"),  # type: ignore[arg-type]
        lambda: TrafficCopMiddleware(app, limts="1/minute"),  # type: ignore[call-arg]
        lambda: RateLimitMiddleware(app, limts="1/minute"),  # type: ignore[call-arg]
    ],
)
def test_a_mistyped_setting_is_told_the_one_that_was_meant(make: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"has no setting 'limts': did you mean limits=\?") as caught:
        make()
    assert isinstance(caught.value, TypeError)


def test_a_part_knows_its_settings_without_the_prefix() -> None:
    with pytest.raises(ConfigurationError, match=r"did you mean fields=\?"):
        RateLimitMiddleware(app, limits_fields=False)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MetricsMiddleware(app, path="/m"), "path='/m' needs token: .* write public=True"),
        (lambda: MetricsMiddleware(app, metrics_path="/m"), r"did you mean path=\?"),  # type: ignore[call-arg]
        (lambda: SessionMiddleware(app, secret="short"), "^secret: 5 bytes"),
        (lambda: SessionMiddleware(app, secret=PEM), "beside it algorithm='ES256'"),
        (lambda: RateLimitMiddleware(app, x_headers="yes"), "^x_headers='yes'"),  # type: ignore[arg-type]
        (lambda: TrafficCop(limits_x_headers="yes"), "^limits_x_headers='yes'"),  # type: ignore[arg-type]
        (lambda: TrafficCop(limits_on_refusal=7), "^limits_on_refusal=7"),  # type: ignore[arg-type]
        (lambda: TrafficCop(session_secret=PEM), "beside it session_algorithm='ES256'"),
        (lambda: TrafficCop(session_secret=[]), "session_secret: an empty list"),
        (lambda: TrafficCop(session_idle=500), "session_idle: there are no sessions without session_secret"),
        (lambda: TrafficCop(metrics_interval=2.0, metrics_series=7), "metrics_interval, metrics_series: nothing is"),
        (lambda: TrafficCop(session_secret="", session_idle=3.0), "session_secret: 0 bytes"),
        (lambda: TrafficCop(proxy_routes=5), r"proxy_routes=5: a list is wanted here"),  # type: ignore[arg-type]
        (lambda: TrafficCop(session_secret=SECRET, session_issuers="x"), "session_issuers='x': a list"),  # type: ignore[arg-type]
        (lambda: PromotionMiddleware(app, hooks=5), "^hooks=5: a list is wanted here, as in hooks="),  # type: ignore[arg-type]
        (
            lambda: RoutingMiddleware(app, routes=[route("/a", to="http://a", limits="1/second")]),
            r"Write TrafficCop\(proxy_routes=\[…\]\)",
        ),
        (lambda: TrafficCop("localhost:6379"), "backend: this is no URL: it begins with no scheme"),
        (lambda: by_api_key("X-Key"), r"read from X-API-Key. Write by_api_key, or by_api_key\(verify=fn\)"),  # type: ignore[call-overload]
        (lambda: limit("99999999999999999999/second"), "a count is from 1 to 9000000000"),
        (lambda: route("/x/*", to=Service), "is no destination. Write a URL"),
        (lambda: simulate_log("access.log", by_ip), "limits=.*: write a string"),  # type: ignore[arg-type]
        (lambda: simulate_log("access.log", "5/minute", marks=True), "write app=… too"),
    ],
)
def test_an_error_names_the_setting_as_it_was_written(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_a_route_shows_where_it_leads() -> None:
    shown = repr(
        route("/x/*", to=[Upstream("http://a:1", weight=3), "http://b:2", *(f"http://c:{n}" for n in range(1, 9))])
    )
    assert "Pool([Upstream(url='http://a:1', weight=3" in shown
    assert "'http://b:2', 'http://c:1', 'http://c:2', 'http://c:3', …])" in shown


def test_what_is_as_by_default_needs_no_other_setting() -> None:
    TrafficCop(session_issuers=[], session_trusted_origins=[], business_metrics=[], metrics_path=None)


def test_a_missing_driver_is_told_with_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("traffic_cop_middleware.adapters.redis")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "hiredis", None)
    with pytest.raises(MissingExtra, match=r"pip install 'traffic-cop-middleware\[redis\]'") as caught:
        TrafficCop("redis://localhost:6379/0")
    assert isinstance(caught.value, ImportError)


@pytest.mark.parametrize(
    ("text", "count", "seconds"),
    [
        ("100/minute", 100, 60),
        (" 5 / 30 seconds ", 5, 30),
        ("1 per day", 1, 86_400),
        ("7/S", 7, 1),
        ("7/2h", 7, 7200),
        ("3/weeks", 3, 604_800),
    ],
)
def test_a_rate_is_read_as_people_write_it(text: str, count: int, seconds: int) -> None:
    (rate,) = limit(text).rates
    assert (rate.count, rate.seconds) == (count, seconds)


def test_a_url_in_the_place_of_a_cop_is_not_printed() -> None:
    with pytest.raises(ConfigurationError, match="write backend=…") as caught:
        TrafficCopMiddleware(app, "redis://user:s3cret@host/0", limits="3/minute")  # type: ignore[arg-type]
    assert "s3cret" not in str(caught.value)
