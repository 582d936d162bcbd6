"""Where webhooks may go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidRequest
from service.webhooks.addresses import check_url, is_reachable

ALLOW = (
    "hooks.example.org",
    "hooks.example.org:8443",
    "*.example.com",
    "http://plain.example",
    "10.1.0.0/16",
    "http://127.0.0.1:*",
    "[fd00::1]:8443",
    "fd01::/16",
)


@pytest.mark.parametrize(
    ("url", "host", "port", "path"),
    [
        ("https://hooks.example.org", "hooks.example.org", 443, "/"),
        ("https://HOOKS.example.org:8443/a/b?c=d", "hooks.example.org", 8443, "/a/b?c=d"),
        ("https://a.b.example.com/x", "a.b.example.com", 443, "/x"),
        ("http://plain.example/x", "plain.example", 80, "/x"),
        ("https://plain.example/x", "plain.example", 443, "/x"),
        ("https://10.1.2.3/x", "10.1.2.3", 443, "/x"),
        ("http://127.0.0.1:9/x", "127.0.0.1", 9, "/x"),
        ("https://[fd00::1]:8443/x", "fd00::1", 8443, "/x"),
        ("https://[fd01::7]/x", "fd01::7", 443, "/x"),
    ],
)
def test_allowed_urls(url: str, host: str, port: int, path: str) -> None:
    target = check_url(url, ALLOW)
    assert (target.host, target.port, target.path, target.tls) == (host, port, path, url.startswith("https"))


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.org/",
        "https://example.com/",
        "https://notexample.com/",
        "https://hooks.example.org.evil.example/",
        "https://evil.example/hooks.example.org",
        "https://user@hooks.example.org/",
        "https://hooks.example.org@evil.example/",
        "https://hooks.example.org/#fragment",
        "https://hooks.example.org/a b",
        "https://hooks.example.org/\r\nX: y",
        "https://hooks.example.org\\@evil.example/",
        "https://hooks.example.org:0/",
        "https://hooks.example.org:22/",
        "https://a.example.com:6379/",
        "http://plain.example:8080/",
        "https://10.1.2.3:9200/",
        "https://[fd00::1]/",
        "https://hooks.example.org:99999/",
        "https://10.2.0.1/",
        "http://10.1.2.3/",
        "https://0x7f000001/",
        "https://[::ffff:10.1.2.3]/",
        "ftp://hooks.example.org/",
        "file:///etc/passwd",
        "//hooks.example.org/",
        "https://",
        "https://[",
        "hooks.example.org",
        "https://hööks.example.org/",
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_url(url, ALLOW)
    assert refused.value.field == "webhook_url"


def test_nothing_is_allowed_by_default() -> None:
    with pytest.raises(InvalidRequest, match="LATENTD_WEBHOOK_ALLOW"):
        check_url("https://hooks.example.org/", ())


def test_a_refusal_says_whether_the_port_or_the_scheme_is_at_fault() -> None:
    for url, said in (
        ("https://hooks.example.org:22/", "port 22 of 'hooks.example.org'"),
        ("http://hooks.example.org/", "over plain http"),
        ("http://plain.example:81/", "port 81"),
    ):
        with pytest.raises(InvalidRequest, match=said):
            check_url(url, ALLOW)


@given(st.text(max_size=80))
def test_no_text_breaks_the_check(text: str) -> None:
    for url in (text, f"https://{text}", f"https://hooks.example.org{text}"):
        try:
            assert check_url(url, ALLOW).host.endswith(("example.org", "example.com"))
        except InvalidRequest:
            continue


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1%eth0",
        "fd00::1",
        "::ffff:127.0.0.1",
        "2002:7f00:1::",
        "64:ff9b::7f00:1",
        "ff02::1",
        "fec0::1",
        "64:ff9b:1::7f00:1",
        "::127.0.0.1",
        "::ffff:0:127.0.0.1",
        "192.88.99.1",
        "192.0.0.8",
        "198.18.0.1",
        "2001:db8::1",
        "2001::1",
        "3fff::1",
        "5f00::1",
        "100::1",
        "4000::1",
    ],
)
def test_private_addresses_are_not_reachable(address: str) -> None:
    assert not is_reachable(address, 443, ("hooks.example.org",))


def test_public_and_allowed_addresses_are() -> None:
    assert is_reachable("93.184.216.34", 443, ())
    assert is_reachable("2606:2800:220:1::1", 443, ())
    assert is_reachable("10.1.9.9", 443, ALLOW)
    assert is_reachable("10.1.9.9", 8443, ALLOW), "a network without a port has those of any entry"
    assert is_reachable("::ffff:10.1.9.9", 443, ALLOW)
    assert not is_reachable("10.2.0.0", 443, ALLOW)


@pytest.mark.parametrize(("port", "reachable"), [(8443, True), (443, False), (6379, False)])
def test_a_network_s_port_counts_for_names_that_resolve_into_it(port: int, reachable: bool) -> None:
    allow = ("*.example.org:*", "10.0.0.0/8:8443")
    assert check_url(f"https://a.example.org:{port}/", allow).port == port
    assert is_reachable("10.1.2.3", port, allow) is reachable
