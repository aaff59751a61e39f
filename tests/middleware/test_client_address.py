"""Whose request it is, behind proxies and in front of liars."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traffic_cop_middleware import ConfigurationError
from traffic_cop_middleware.middleware.client_address import ClientAddress, TrustedProxies

PEER = "10.0.0.1"


def found(trusted: TrustedProxies, *headers: tuple[str, str], peer: str | None = PEER) -> str:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    return ClientAddress(trusted).of((peer, 1) if peer is not None else None, raw)


@pytest.mark.parametrize(
    ("trusted", "header", "client"),
    [
        ((), "198.51.100.1", PEER),
        (["192.0.2.0/24"], "198.51.100.1", PEER),
        (["10.0.0.0/8"], "198.51.100.1", "198.51.100.1"),
        ("10.0.0.0/8", "198.51.100.1", "198.51.100.1"),
        (["10.0.0.0/8"], "203.0.113.9, 198.51.100.1", "198.51.100.1"),
        (["10.0.0.0/8"], "203.0.113.9, 198.51.100.1, 10.0.0.2", "198.51.100.1"),
        (["10.0.0.0/8"], "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        (["10.0.0.0/8"], "198.51.100.1:4711", "198.51.100.1"),
        (["10.0.0.0/8"], "[2001:db8::5]:4711", "2001:db8::/64"),
        (["10.0.0.0/8"], "2001:db8::5", "2001:db8::/64"),
        (["10.0.0.0/8"], "::ffff:198.51.100.1", "198.51.100.1"),
        (["10.0.0.0/8"], "198.51.100.1, unknown", PEER),
        (["10.0.0.0/8"], "198.51.100.1, 10.0.0.2, <script>, 10.0.0.3", "10.0.0.3"),
        (["10.0.0.0/8"], "", PEER),
        (["10.0.0.0/8"], ",,,", PEER),
        (["::ffff:0:0/96", "10.0.0.0/8"], "198.51.100.1", "198.51.100.1"),
        (1, "203.0.113.9, 198.51.100.1", "198.51.100.1"),
        (2, "203.0.113.9, 198.51.100.1, 10.0.0.2", "198.51.100.1"),
        (2, "198.51.100.1", PEER),
        (1, "garbage", PEER),
        (0, "198.51.100.1", PEER),
    ],
)
def test_the_list_is_read_from_the_right(trusted: TrustedProxies, header: str, client: str) -> None:
    assert found(trusted, ("x-forwarded-for", header)) == client


@pytest.mark.parametrize(
    ("header", "client"),
    [
        ("for=198.51.100.1;proto=https;by=10.0.0.1", "198.51.100.1"),
        ('For="[2001:db8::5]:4711"', "2001:db8::/64"),
        ("for=203.0.113.9, for=198.51.100.1", "198.51.100.1"),
        ("for=198.51.100.1, for=10.0.0.2", "198.51.100.1"),
        ("for=_hidden", PEER),
        ("for=198.51.100.1, for=unknown", PEER),
        ("proto=https", PEER),
    ],
)
def test_forwarded_is_understood(header: str, client: str) -> None:
    assert found(["10.0.0.0/8"], ("forwarded", header)) == client


def test_two_headers_that_disagree_are_both_disbelieved() -> None:
    one, other = ("x-forwarded-for", "198.51.100.1"), ("forwarded", "for=203.0.113.9")
    assert found(["10.0.0.0/8"], one, other) == PEER
    assert found(["10.0.0.0/8"], one, ("forwarded", "for=198.51.100.1")) == "198.51.100.1"


def test_a_list_over_several_lines_is_one_list() -> None:
    lines = [("x-forwarded-for", "203.0.113.9"), ("x-forwarded-for", "198.51.100.1"), ("x-forwarded-for", "10.0.0.2")]
    assert found(["10.0.0.0/8"], *lines) == "198.51.100.1"


def test_an_endless_list_is_read_only_at_its_end() -> None:
    flood = ", ".join(["203.0.113.9"] * 100_000) + ", 198.51.100.1"
    assert found(["10.0.0.0/8"], ("x-forwarded-for", flood)) == "198.51.100.1"


def test_no_peer_is_unknown() -> None:
    assert found((), peer=None) == "unknown"
    assert found(["10.0.0.0/8"], ("x-forwarded-for", "198.51.100.1"), peer=None) == "unknown"


@given(st.text(max_size=200), st.sampled_from(["x-forwarded-for", "forwarded"]))
def test_no_header_breaks_it_and_none_is_trusted_from_strangers(value: str, name: str) -> None:
    raw = [(name.encode(), value.encode("utf-8", "replace"))]
    assert ClientAddress(["192.0.2.0/24"]).of((PEER, 1), raw) == PEER
    assert ClientAddress(["10.0.0.0/8"]).of((PEER, 1), raw)
    assert ClientAddress(3).of((PEER, 1), raw)


@pytest.mark.parametrize("bad", [-1, 33, True, ["10.0.0.0/99"], ["proxy.example"], "10.0.0.1/8", [7.5], 1.5, None])
def test_what_names_no_proxies_is_refused(bad: object) -> None:
    with pytest.raises(ConfigurationError, match="trusted_proxies"):
        ClientAddress(bad)  # type: ignore[arg-type]


def test_an_undeclared_proxy_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    address = ClientAddress()
    with caplog.at_level(logging.WARNING):
        for peer in ("8.8.8.8", PEER, "10.0.0.2", "127.0.0.1"):
            if address.watched:
                address.watch({"client": (peer, 1), "headers": [(b"x-forwarded-for", b"198.51.100.1")]})
    assert [record.getMessage() for record in caplog.records] == [
        "a peer on a private address sends X-Forwarded-For or Forwarded, and trusted_proxies is empty: if it is your "
        "proxy, all its clients share one bucket. Name it: trusted_proxies=['10.0.0.1'] or its network"
    ]
