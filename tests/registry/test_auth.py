"""Challenges, tokens, and where a login may go; redirects, proxies and waits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fs.format.errors import AccessError, FormatError, UnreachableError
from fs.registry.address import absolute, check_redirect, is_loopback, shown
from fs.registry.auth import (
    Challenge,
    may_send_login,
    parse_challenges,
    read_token,
    token_request,
)
from fs.registry.credentials import Credentials
from fs.registry.proxy import proxies_for
from fs.registry.retry import RetryPolicy, TemporaryFault

LOGIN = Credentials("alice", "secret")
REGISTRY = "https://quay.io"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (
            'Bearer realm="https://a/t",service="s",scope="repository:a:pull,push"',
            [
                (
                    "bearer",
                    {"realm": "https://a/t", "service": "s", "scope": "repository:a:pull,push"},
                )
            ],
        ),
        (
            'Basic realm="r", Bearer realm=https://t , x="a\\"b"',
            [("basic", {"realm": "r"}), ("bearer", {"realm": "https://t", "x": 'a"b'})],
        ),
        ("Negotiate, Basic REALM = r", [("negotiate", {}), ("basic", {"realm": "r"})]),
        ('Bearer realm="first",realm="second"', [("bearer", {"realm": "first"})]),
        ('realm="x"', []),
        ("", []),
        ('Bearer realm="open', [("bearer", {"realm": ""}), ("open", {})]),
    ],
)
def test_challenges(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert parse_challenges(header) == [Challenge(scheme, values) for scheme, values in expected]


@given(st.text(alphabet='Ba ="\\,\n\x00é'))
def test_any_header_is_read(header: str) -> None:
    assert all(challenge.scheme for challenge in parse_challenges(header))


@pytest.mark.parametrize(
    ("realm", "registry", "plain_http", "allowed"),
    [
        ("https://auth.docker.io/token", "https://registry-1.docker.io", False, True),
        ("http://auth.example/token", "https://quay.io", False, False),
        ("http://quay.io/token", "https://quay.io", False, False),
        ("http://evil.example/token", "http://127.0.0.1:5000", False, False),
        ("http://127.0.0.1:5001/token", "http://127.0.0.1:5000", False, True),
        ("http://localhost:5001/token", "https://quay.io", False, True),
        ("http://reg.lan:5001/token", "http://reg.lan:5000", False, True),
        ("http://evil.example/token", "http://reg.lan:5000", False, False),
        ("http://auth.lan/token", "http://reg.lan:5000", True, True),
    ],
)
def test_where_a_login_may_go(realm: str, registry: str, plain_http: bool, allowed: bool) -> None:
    assert may_send_login(realm, registry, plain_http=plain_http) == allowed
    challenge = Challenge("bearer", {"realm": realm})
    if allowed:
        request = token_request(challenge, ["s"], LOGIN, registry, plain_http=plain_http)
        assert request.headers["Authorization"].startswith("Basic ")
        assert "secret" not in repr(request)
    else:
        with pytest.raises(AccessError, match="clear text"):
            token_request(challenge, ["s"], LOGIN, registry, plain_http=plain_http)
        anonymous = token_request(challenge, ["s"], None, registry, plain_http=plain_http)
        assert anonymous.headers == {}


@pytest.mark.parametrize(
    "realm", ["", "file:///x", "javascript:x", "http://", "a\nb", "https://[x"]
)
def test_bad_realms(realm: str) -> None:
    with pytest.raises(FormatError):
        token_request(Challenge("bearer", {"realm": realm}), [], LOGIN, REGISTRY, plain_http=True)


def test_realm_may_be_relative_and_loses_a_login_of_its_own() -> None:
    challenge = Challenge("bearer", {"realm": "https://u:p@auth.io/t"})
    request = token_request(challenge, [], None, REGISTRY, plain_http=False)
    assert request.url == "https://auth.io/t"


def test_identity_token_is_posted() -> None:
    login = Credentials(identity_token="long lived")
    challenge = Challenge("bearer", {"realm": "https://a/t", "service": "s"})
    request = token_request(challenge, ["x", "y"], login, REGISTRY, plain_http=False)
    assert request.method == "POST"
    assert "long" not in request.url + repr(request)
    assert request.body
    assert b"refresh_token=long+lived" in request.body
    assert b"scope=x+y" in request.body


@pytest.mark.parametrize(
    ("raw", "value", "life"),
    [
        (b'{"token":"t"}', "t", 60),
        (b'{"access_token":"a","expires_in":10}', "a", 10),
        (b'{"token":"t","expires_in":1e99}', "t", 86400),
        (b'{"token":"t","expires_in":NaN}', "t", 60),
        (b'{"token":"t","expires_in":-5}', "t", 60),
        (b'{"token":"t","expires_in":"300"}', "t", 60),
    ],
)
def test_tokens(raw: bytes, value: str, life: float) -> None:
    token = read_token(raw, 1000.0, "x")
    assert (token.value, token.expires) == (value, 1000.0 + life)
    assert f"'{value}'" not in repr(token)


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"token":1}', b'{"token":"a b"}'])
def test_bad_tokens(raw: bytes) -> None:
    with pytest.raises(FormatError, match="token server"):
        read_token(raw, 0, "x")


@pytest.mark.parametrize(
    ("source", "target", "allowed"),
    [
        ("https://a.io/x", "https://b.io/y", True),
        ("https://a.io/x", "http://a.io/y", False),
        ("http://a.io/x", "http://b.io/y", True),
        ("https://a.io/x", "https://127.0.0.1/y", False),
        ("https://a.io/x", "https://169.254.169.254/y", False),
        ("https://a.io/x", "https://localhost/y", False),
        ("https://a.io/x", "https://[::1]/y", False),
        ("https://a.io/x", "https://10.0.0.1/y", True),
        ("http://127.0.0.1:1/x", "http://127.0.0.1:2/y", True),
    ],
)
def test_redirects(source: str, target: str, allowed: bool) -> None:
    check_redirect(source, target, plain_http=True)
    if allowed:
        check_redirect(source, target, plain_http=False)
    else:
        with pytest.raises(AccessError, match="redirects"):
            check_redirect(source, target, plain_http=False)


def test_urls() -> None:
    assert absolute("/b?c=d#e", "https://a.io:1/x", "w") == "https://a.io:1/b?c=d"
    assert absolute("//b/c", "https://a.io", "w") == "https://b/c"
    assert absolute("http://u:p@[::1]:2/c", "https://a", "w") == "http://[::1]:2/c"
    assert shown("https://user:secret@a.io:1/x?sig=y") == "a.io:1"
    assert is_loopback("127.9.9.9")
    assert is_loopback("::1")
    assert not is_loopback("localhost.evil.example")
    for bad in (None, "", "a" * 20_000, "http://a:99999/", "http://a\x00/"):
        with pytest.raises(FormatError):
            absolute(bad, "https://a.io", "w")


@pytest.mark.parametrize(
    ("url", "environment", "proxy"),
    [
        ("https://a.io/x", {"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ("https://a.io/x", {"https_proxy": "p:1"}, "http://p:1"),
        ("http://a.io/x", {"HTTPS_PROXY": "http://p:1"}, None),
        ("http://a.io/x", {"ALL_PROXY": "http://p:1"}, "http://p:1"),
        ("http://127.0.0.1:5/x", {"HTTP_PROXY": "http://p:1"}, None),
        ("http://a.io/x", {"HTTP_PROXY": "http://p:1", "NO_PROXY": "b.io, .io"}, None),
        ("http://a.io/x", {"HTTP_PROXY": "http://p:1", "NO_PROXY": "a.io:81"}, "http://p:1"),
        ("http://ba.io/x", {"HTTP_PROXY": "http://p:1", "NO_PROXY": "a.io"}, "http://p:1"),
        ("http://10.1.2.3/x", {"HTTP_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8"}, None),
        ("http://a.io/x", {"HTTP_PROXY": "http://p:1", "NO_PROXY": "*"}, None),
        ("http://a.io/x", {}, None),
    ],
)
def test_proxies(url: str, environment: dict[str, str], proxy: str | None) -> None:
    assert next(iter(proxies_for(url, environment).values()), None) == proxy


def test_retry_policy() -> None:
    waits: list[float] = []
    policy = RetryPolicy(attempts=4, base=1, longest=3, sleep=waits.append, jitter=lambda: 0.0)
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise TemporaryFault("x", 2.5 if len(calls) == 2 else None)

    with pytest.raises(UnreachableError):
        policy.run(fail)
    assert len(calls) == 4
    assert waits == [0.5, 2.5, 1.5]

    def refuse() -> None:
        calls.append(1)
        raise AccessError("x")

    calls.clear()
    with pytest.raises(AccessError):
        policy.run(refuse)
    assert len(calls) == 1
