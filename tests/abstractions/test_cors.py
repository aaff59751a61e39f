"""CORS policies: what can be written, whom they allow, what they answer, and which one a path has."""

from __future__ import annotations

import json
import re
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from traffic_cop_middleware.abstractions.cors import METHODS, SAFELISTED, CorsPolicy, cors_policy_from
from traffic_cop_middleware.abstractions.cors_answers import (
    MOST_ASKED,
    Preflight,
    PreflightAnswer,
    answer_preflight,
    shared_fields,
)
from traffic_cop_middleware.abstractions.cors_table import CorsTable
from traffic_cop_middleware.abstractions.origins import checked_origin
from traffic_cop_middleware.errors import ConfigurationError

APP = "https://app.example.com"
VARY = {"vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"}


def as_dict(fields: Any) -> dict[str, str]:
    found = {name.decode(): value.decode() for name, value in fields}
    assert len(found) == len(list(fields)), f"a field stands twice: {fields}"
    return found


def asked(
    policy: CorsPolicy, origin: str = APP, method: str = "PUT", headers: str = "", **more: Any
) -> PreflightAnswer:
    return answer_preflight(policy, Preflight(origin, method, headers, **more))


# What can be written


def test_a_policy_of_few_words() -> None:
    policy = CorsPolicy(origins=[APP])
    assert policy.origins == (APP,)
    assert policy.methods == METHODS == ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
    assert (policy.headers, policy.expose, policy.credentials) == ((), (), False)
    assert (policy.max_age, policy.paths, policy.private_network, policy.name) == (600, ("/*",), False, "")


def test_a_policy_is_a_value_in_one_form() -> None:
    one = CorsPolicy(origins=[APP, "null", APP], methods=["PUT", "GET"], headers=["X-B", "x-a"], paths=["/b", "/%61/*"])
    same = CorsPolicy(origins=("null", APP), methods=("GET", "PUT"), headers=["X-A", "X-b"], paths=["/a/*", "/b"])
    assert one == same
    assert hash(one) == hash(same)
    assert (one.headers, one.paths) == (("x-a", "x-b"), ("/a/*", "/b"))
    assert one != CorsPolicy(origins=["null", APP])
    assert CorsPolicy(origins=APP) == CorsPolicy(origins=[APP])
    assert CorsPolicy(origins=["*"], headers=["*", "authorization"]) == CorsPolicy(origins="*", headers="*")
    with pytest.raises(FrozenInstanceError):
        one.max_age = 3  # type: ignore[misc]


ORIGINS = {
    "https://App.Example.com": "lower case and without a final '/': 'https://app.example.com'",
    "https://app.example.com/": "lower case and without a final '/': 'https://app.example.com'",
    "NULL": "'null'",
    "https://app.example.com:443": "write 'https://app.example.com'",
    "http://app.example.com:80": "write 'http://app.example.com'",
    "https://app.example.com:0": "from 1 to 65535",
    "https://app.example.com:65536": "from 1 to 65535",
    "https://app.example.com:08443": "from 1 to 65535",
    "https://b\u00fccher.example": "xn--",
    "app.example.com": "an origin is 'https://app.example.com'",
    "*.example.com": "an origin is",
    "https://app.example.com/path": "an origin is",
    "https://user@app.example.com": "an origin is",
    "https://app..example.com": "an origin is",
    "https://-app.example.com": "an origin is",
    "https://*": "an origin is",
    "https://*example.com": "an origin is",
    "https://a.*.example.com": "an origin is",
    "https://*.*.example.com": "an origin is",
    "https://app.example.com:*": "an origin is",
    "https://": "an origin is",
    "": "an origin is",
    "https://app.example.com, https://b.example": "an origin is",
    "https://app.example.com\n": "lower case and without",
    "http://127.1": "no address",
    "http://127.0.0.256": "no address",
    "http://[::01]": "'[::1]'",
    "http://[::1": "an origin is",
    "http://[:::1]": "no address",
    "http://[::ffff:1.2.3.4]": "'[::ffff:102:304]'",
    "http://*.127.0.0.1": "no subdomains",
    "http://*.[::1]": "no subdomains",
    f"https://{'a' * 256}": "an origin is",
}


@pytest.mark.parametrize("origin", ORIGINS)
def test_an_origin_that_no_browser_writes_is_an_error_with_the_mend(origin: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(ORIGINS[origin])) as found:
        CorsPolicy(origins=[APP, origin])
    assert f"origins={origin!r}" in str(found.value)


@pytest.mark.parametrize(
    "origin",
    [
        *("null", "http://localhost:3000", "http://127.0.0.1:8000", "http://[::1]:8000", "http://[::ffff:102:304]"),
        *(
            "https://a_b.example",
            "https://xn--bcher-kva.example",
            "chrome-extension://abcdefgh",
            "capacitor://localhost",
        ),
        *(
            "https://app.example.com:80",
            "https://*.example.com",
            "https://*.example.com:8443",
            "http://*.localhost:3000",
        ),
    ],
)
def test_origins_that_browsers_write_can_be_listed(origin: str) -> None:
    assert checked_origin(origin) == origin
    assert CorsPolicy(origins=origin).origins == (origin,)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"origins": None}, "origins=None: text, or a list"),
    ({"origins": 7}, "origins=7"),
    ({"origins": [7]}, "origins=7"),
    ({"origins": {APP: 1}}, "origins={"),
    ({"origins": b"https://a.example"}, "origins=b'https"),
    ({"origins": [f"https://{number}.example" for number in range(10_001)]}, "10000 is the most"),
    ({"origins": "*", "credentials": True}, "origins='*', credentials=True: browsers refuse"),
    ({"origins": "*", "credentials": True}, "List the origins"),
    ({"origins": ["*", APP]}, "'*' is everybody, whoever stands beside it"),
    ({"origins": ["null", APP], "credentials": True}, "origins='null', credentials=True: any page"),
    ({"expose": "*", "credentials": True}, "expose='*', credentials=True"),
    ({"methods": "*"}, "methods='*': name each one"),
    ({"methods": "patch"}, "methods='patch': methods are case-sensitive; write 'PATCH'"),
    ({"methods": ["GET", "G T"]}, "methods='G T'"),
    ({"methods": ["TRACE"]}, "methods='TRACE': browsers let no page send it"),
    ({"methods": None}, "methods=None"),
    ({"methods": ["M" * 129]}, "methods='MMM"),
    ({"headers": "X Total"}, "headers='X Total'"),
    ({"headers": "a, b"}, "headers='a, b'"),
    ({"headers": [""]}, "headers=''"),
    ({"headers": [f"x-{number}" for number in range(257)]}, "256 is the most"),
    ({"expose": ["X-\u00e9"]}, "expose='X-\u00e9'"),
    ({"credentials": 1}, "credentials=1: True or False"),
    ({"private_network": "yes"}, "private_network='yes': True or False"),
    ({"max_age": -1}, "max_age=-1: whole seconds"),
    ({"max_age": True}, "max_age=True"),
    ({"max_age": 1.5}, "max_age=1.5"),
    ({"max_age": 2**31}, "max_age=2147483648"),
    ({"paths": "api/*"}, "paths='api/*': a path that begins with '/'"),
    ({"paths": ["/a/*/b"]}, "paths='/a/*/b': '*' is the whole last segment"),
    ({"paths": [3]}, "paths=3"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[f"{number}" for number in range(len(WRONG))])
def test_what_can_not_be_used_is_an_error_that_names_it(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        CorsPolicy(**{"origins": [APP], **arguments})


# Records


def test_a_record_has_only_what_differs_from_the_defaults() -> None:
    assert CorsPolicy(origins=[APP]).record() == {"origins": [APP]}
    assert CorsPolicy(origins="*", max_age=600, headers="*").record() == {"origins": "*", "headers": "*"}
    assert CorsPolicy(origins=[], paths=()).record() == {"origins": [], "paths": []}


policies = st.builds(
    CorsPolicy,
    origins=st.lists(st.sampled_from([APP, "https://*.example.org", "http://localhost:3000"])),
    methods=st.lists(st.sampled_from([*METHODS, "QUERY", "OPTIONS", "PURGE"])),
    headers=st.lists(st.sampled_from(["X-Total", "authorization", "X-REQUEST-ID", "*"])),
    expose=st.lists(st.sampled_from(["X-Total", "ETag"])),
    credentials=st.booleans(),
    max_age=st.integers(0, 100_000),
    paths=st.lists(st.sampled_from(["/*", "/api/*", "/users/{id}", "/"])),
    private_network=st.booleans(),
)


@given(policies)
def test_a_policy_comes_back_from_its_record(policy: CorsPolicy) -> None:
    assert cors_policy_from(json.loads(json.dumps(policy.record()))) == policy


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (None, "is a mapping, not None"),
        ([APP], "is a mapping"),
        ({}, "has no 'origins'"),
        ({"origins": [APP], "origin": 1}, "has the key 'origin': its keys are origins, methods"),
        ({"origins": [APP], "name": "a"}, "has the key 'name'"),
        ({"origins": [APP], "exact": []}, "has the key 'exact'"),
        ({"origins": [APP], "max_age": "600"}, "max_age='600'"),
        ({"origins": "*", "credentials": True}, "browsers refuse"),
    ],
)
def test_a_bad_record_is_refused_with_the_reason(record: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        cors_policy_from(record)


# Whom it allows

LISTED = (APP, "http://localhost:3000", "https://*.example.com", "https://*.b.example:8443")
POLICY = CorsPolicy(origins=LISTED)
LABEL = r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?"
REFERENCE = re.compile(
    r"https://app\.example\.com|http://localhost:3000"
    rf"|https://({LABEL}\.)+example\.com|https://({LABEL}\.)+b\.example:8443"
)
"""The list, as a person would write it by hand."""

near_misses = st.builds(
    lambda scheme, host, port: scheme + host + port,
    st.sampled_from(
        ["https://", "http://", "https:/", "HTTPS://", "https://user@", "https://a:b@", "", "https://x://"]
    ),
    st.lists(
        st.sampled_from(
            [
                *("app", "a", "example.com", ".example.com", ".", "com", "b.example", "evil", "-", "_", "localhost"),
                *("A", "*", "/", "#", "?", "%2e", " ", "\\", ":", "@", "\u00e9", "\n", "example", ".com", "[::1]"),
                "evilexample.com",
            ]
        ),
        max_size=6,
    ).map("".join),
    st.sampled_from(["", ":443", ":8443", ":3000", "/", ".", ".evil.com", "\n", ":8443:8443", "null", ", " + APP]),
)


@given(near_misses | st.text(max_size=40) | st.from_regex(REFERENCE, fullmatch=True))
@example("https://example.com")
@example("https://evilexample.com")
@example("https://app.example.com.evil.com")
@example("https://evil.com#.example.com")
@example("https://evil.com:80.example.com")
@example("https://a.b.c.example.com")
@example("https://.example.com")
@example("https://a..example.com")
@example("https://b.example:8443")
@example("https://a.b.example:8443")
@example("https://a.b.example")
@example("http://a.example.com")
@example("https://*.example.com")
@example("https://APP.example.com")
@example("null")
@example("*")
@example("")
def test_only_what_is_listed_ever_gets_allow_origin(origin: str) -> None:
    listed = REFERENCE.fullmatch(origin) is not None and len(origin) <= 319
    assert POLICY.allows(origin) is listed
    fields = as_dict(shared_fields(POLICY, [], origin=origin))
    assert fields.get("access-control-allow-origin") == (origin if listed else None)
    answer = asked(POLICY, origin)
    assert answer.allowed is listed
    assert as_dict(answer.fields).get("access-control-allow-origin") == (origin if listed else None)


def test_null_is_allowed_only_where_it_is_listed() -> None:
    assert not CorsPolicy(origins=[APP, "https://*.example.com"]).allows("null")
    assert CorsPolicy(origins=["null"]).allows("null")
    assert not CorsPolicy(origins=["null"]).allows("NULL")
    assert (
        as_dict(shared_fields(CorsPolicy(origins=["null"]), [], origin="null"))["access-control-allow-origin"] == "null"
    )


def test_an_endless_origin_is_nobodys() -> None:
    assert not POLICY.allows("https://" + "a." * 100_000 + "example.com")


def test_a_policy_without_origins_allows_nobody_and_varies_by_nothing() -> None:
    policy = CorsPolicy(origins=())
    assert not policy.allows(APP)
    assert asked(policy).reason == "origin"
    assert shared_fields(policy, [(b"access-control-allow-origin", b"*")], origin=APP) == []


# Preflights


def test_an_allowed_preflight_is_204_with_all_that_is_allowed() -> None:
    policy = CorsPolicy(origins=[APP], headers=["X-Total", "Authorization"], credentials=True, max_age=60)
    answer = asked(policy, headers="x-total,AUTHORIZATION , content-type,,")
    assert (answer.status, answer.allowed, answer.reason, answer.detail) == (204, True, "", "")
    assert as_dict(answer.fields) == {
        "access-control-allow-origin": APP,
        "access-control-allow-credentials": "true",
        "access-control-max-age": "60",
        "access-control-allow-methods": "DELETE, GET, HEAD, PATCH, POST, PUT",
        "access-control-allow-headers": "accept, accept-language, authorization, content-language, content-type, "
        "range, x-total",
        **VARY,
    }


def test_everybody_is_answered_with_a_star() -> None:
    fields = as_dict(asked(CorsPolicy(origins="*"), "https://anywhere.example").fields)
    assert fields["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in fields
    assert asked(CorsPolicy(origins="*"), "null").allowed


def test_all_headers_are_answered_with_those_that_were_asked() -> None:
    policy = CorsPolicy(origins=[APP], headers="*", credentials=True)
    fields = as_dict(asked(policy, headers="Authorization, x-b, X-B").fields)
    assert fields["access-control-allow-headers"] == "authorization, x-b"
    assert "access-control-allow-headers" not in as_dict(asked(policy).fields)


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"origin": "https://evil.example"}, "origin", "'https://evil.example'"),
    ({"origin": "null"}, "origin", "'null'"),
    ({"origin": ""}, "origin", "''"),
    ({"origin": "x" * 5000}, "origin", "…"),
    ({"method": "put"}, "method", "'put'"),
    ({"method": "PURGE"}, "method", "'PURGE'"),
    ({"method": ""}, "method", "names no method"),
    ({"headers": "x-secret"}, "headers", "'x-secret'"),
    ({"headers": "x-total, x-total-2"}, "headers", "'x-total-2'"),
    ({"headers": "x-total x-total"}, "headers", "no header's name"),
    ({"headers": "x-total\r\nset-cookie: a=b"}, "headers", "no header's name"),
    ({"headers": "*"}, "headers", "'*'"),
    ({"headers": "a" * (MOST_ASKED + 1)}, "too_large", "longer than 8192 bytes"),
    ({"private_network": True}, "private_network", "private one"),
]


@pytest.mark.parametrize(
    ("question", "reason", "detail"), REFUSED, ids=[f"{each[1]}{n}" for n, each in enumerate(REFUSED)]
)
def test_a_refused_preflight_is_403_without_allow_fields(question: dict[str, Any], reason: str, detail: str) -> None:
    answer = asked(CorsPolicy(origins=[APP], headers=["x-total"]), **question)
    assert (answer.status, answer.allowed, answer.reason) == (403, False, reason)
    assert as_dict(answer.fields) == VARY
    assert detail in answer.detail
    assert len(answer.detail) < 300


@pytest.mark.parametrize("headers", ["x-a\r\nset-cookie: a=b", "x-a, \u00e9", 'x-"', "x-a; y", "a" * (MOST_ASKED + 1)])
def test_where_all_headers_are_allowed_only_names_of_headers_come_back(headers: str) -> None:
    assert asked(CorsPolicy(origins="*", headers="*"), headers=headers).status == 403


def test_a_header_list_of_the_largest_size_is_answered() -> None:
    headers = ",".join(f"x-{number:04}" for number in range(MOST_ASKED // 7))
    assert len(headers) <= MOST_ASKED
    assert asked(CorsPolicy(origins="*", headers="*"), headers=headers).allowed


@given(policies, st.sampled_from([APP, "https://x.example.org", "https://evil.example"]), st.text(max_size=30))
def test_an_answer_allows_all_or_nothing(policy: CorsPolicy, origin: str, headers: str) -> None:
    answer = asked(policy, origin, "PURGE", headers)
    names = {name for name, _ in answer.fields}
    assert answer.allowed == (b"access-control-allow-origin" in names) == (answer.status == 204)
    assert answer.allowed or names == {b"vary"}
    assert all(b"\r" not in value and b"\n" not in value for _, value in answer.fields)


def test_a_private_network_is_opened_only_when_asked() -> None:
    policy = CorsPolicy(origins=[APP], private_network=True)
    assert as_dict(asked(policy, private_network=True).fields)["access-control-allow-private-network"] == "true"
    assert "access-control-allow-private-network" not in as_dict(asked(policy).fields)


def test_names_of_the_safelist_are_always_allowed() -> None:
    assert asked(CorsPolicy(origins=[APP]), headers=",".join(SAFELISTED)).allowed


# Responses


def test_a_response_to_an_allowed_origin_says_what_it_may_read() -> None:
    policy = CorsPolicy(origins=[APP], expose=["X-Total", "ETag"], credentials=True)
    fields = shared_fields(policy, [(b"content-type", b"text/plain")], origin=APP)
    assert as_dict(fields) == {
        "content-type": "text/plain",
        "access-control-allow-origin": APP,
        "access-control-allow-credentials": "true",
        "access-control-expose-headers": "etag, x-total",
        "vary": "Origin",
    }


@pytest.mark.parametrize("origin", [None, "https://evil.example", "null", ""])
def test_a_response_to_anybody_else_only_varies(origin: str | None) -> None:
    policy = CorsPolicy(origins=[APP], expose=["X-Total"], credentials=True)
    assert as_dict(shared_fields(policy, [(b"etag", b'"1"')], origin=origin)) == {"etag": '"1"', "vary": "Origin"}


@pytest.mark.parametrize("origin", [None, APP, "null"])
def test_a_response_for_everybody_is_always_the_same_and_varies_by_nothing(origin: str | None) -> None:
    fields = shared_fields(CorsPolicy(origins="*", expose="*"), [], origin=origin)
    assert as_dict(fields) == {"access-control-allow-origin": "*", "access-control-expose-headers": "*"}


@pytest.mark.parametrize("origin", [APP, "https://evil.example", None])
def test_an_upstreams_own_cors_fields_are_replaced(origin: str | None) -> None:
    own = [(b"Access-Control-Allow-Origin", b"*"), (b"access-control-allow-origin", b"https://evil.example")]
    own += [(b"access-control-allow-credentials", b"true"), (b"access-control-expose-headers", b"x-secret")]
    own += [(b"access-control-max-age", b"1"), (b"access-control-allow-methods", b"X"), (b"etag", b"1")]
    own += [(b"access-control-allow-headers", b"x"), (b"access-control-allow-private-network", b"true")]
    policy = CorsPolicy(origins=[APP])
    assert shared_fields(policy, own, origin=origin) == shared_fields(policy, [(b"etag", b"1")], origin=origin)


@pytest.mark.parametrize(
    ("own", "varied"),
    [
        ([], [b"Origin"]),
        ([b"Cookie"], [b"Cookie, Origin"]),
        ([b"Cookie", b"Accept"], [b"Cookie", b"Accept, Origin"]),
        ([b"Cookie, origin"], [b"Cookie, origin"]),
        ([b"ORIGIN", b"Cookie"], [b"ORIGIN", b"Cookie"]),
        ([b"*"], [b"*"]),
        ([b"Cookie", b" * "], [b"Cookie", b" * "]),
        ([b""], [b"", b"Origin"]),
        ([b"X-Origin"], [b"X-Origin, Origin"]),
    ],
)
def test_origin_is_added_to_a_vary_that_lacks_it(own: list[bytes], varied: list[bytes]) -> None:
    fields = shared_fields(CorsPolicy(origins=[APP]), [(b"Vary", value) for value in own], origin=None)
    assert [value for name, value in fields if name.lower() == b"vary"] == varied


# Tables


def test_a_path_has_the_policy_that_a_gateway_route_of_its_pattern_would_take() -> None:
    table = CorsTable(
        {
            "rest": CorsPolicy(origins=["https://rest.example"]),
            "api": CorsPolicy(origins=[APP], paths=["/api/*", "/v2/{id}/*"]),
            "public": CorsPolicy(origins="*", paths="/api/public"),
            "partners": CorsPolicy(origins=["https://partner.example"], paths=()),
        }
    )
    names = {
        path: policy.name if (policy := table.find(path)) is not None else None
        for path in (
            b"/",
            b"/api",
            b"/api/x",
            b"/apis",
            b"/api/public",
            b"/%61pi/public",
            b"/v2/7/a",
            b"/v2",
            b"/a/../b",
        )
    }
    assert names == {
        b"/": "rest",
        b"/api": "api",
        b"/api/x": "api",
        b"/apis": "rest",
        b"/api/public": "public",
        b"/%61pi/public": "public",
        b"/v2/7/a": "rest",  # a prefix, be it "/*", stands before a pattern with parameters
        b"/v2": "rest",
        b"/a/../b": None,
    }
    partners = table.named("partners")
    assert partners == CorsPolicy(origins=["https://partner.example"], paths=())
    assert partners is not None
    assert partners.name == "partners"
    assert table.named("nobody") is None
    assert (len(table), list(table)) == (4, ["rest", "api", "public", "partners"])


def test_a_pattern_with_parameters_has_its_policy() -> None:
    table = CorsTable({"api": CorsPolicy(origins=[APP], paths=["/v2/{id}/*", "/v2/{id}/{part}/public"])})
    assert [table.find(path) is not None for path in (b"/v2/7/a", b"/v2/7/a/public", b"/v2")] == [True, True, False]


def test_an_empty_table_has_no_policy() -> None:
    assert CorsTable().find(b"/") is None
    assert not CorsTable({})


def test_one_policy_may_stand_under_two_names() -> None:
    policy = CorsPolicy(origins=[APP], paths=())
    table = CorsTable({"a": policy, "b": policy})
    assert [table.named(name).name for name in "ab"] == ["a", "b"]  # type: ignore[union-attr]
    assert policy.name == ""


@pytest.mark.parametrize(("one", "other"), [("/*", "/*"), ("/a", "/%61"), ("/u/{id}/*", "/u/{name}/*")])
def test_two_policies_for_one_path_are_an_error(one: str, other: str) -> None:
    with pytest.raises(ConfigurationError, match="'a' and 'b' are both for the path"):
        CorsTable({"a": CorsPolicy(origins=[APP], paths=one), "b": CorsPolicy(origins="*", paths=["/x", other])})


@pytest.mark.parametrize("name", ["", "a" * 201, "a\n", 3])
def test_a_policy_needs_a_name(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="a policy has a name"):
        CorsTable({name: CorsPolicy(origins=[APP])})


def test_what_is_no_policy_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="write CorsPolicy"):
        CorsTable({"a": {"origins": [APP]}})  # type: ignore[dict-item]
