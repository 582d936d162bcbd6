"""Origins and host names in the one form in which they are compared; settings refuse what can't be one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from core.origins import host_name, parse_authority, parse_origin, parse_public_url
from core.settings import Settings


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://draw.example.org", "https://draw.example.org:443"),
        ("http://draw.example.org", "HTTP://Draw.Example.org.:80"),
        ("http://[::1]:8000", "http://[0:0:0:0:0:0:0:1]:8000"),
    ],
)
def test_equal_origins(one: str, other: str) -> None:
    assert parse_origin(one) is not None
    assert parse_origin(one) == parse_origin(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://draw.example.org", "http://draw.example.org"),
        ("https://draw.example.org", "https://draw.example.org:8443"),
        ("http://draw.example.org:443", "https://draw.example.org"),
        ("https://draw.example.org", "https://example.org"),
    ],
)
def test_different_origins(one: str, other: str) -> None:
    assert parse_origin(one) != parse_origin(other)


@pytest.mark.parametrize(
    "text",
    [
        "null",
        "",
        "http://",
        "http://[",
        "http://[::1",
        "http://a:b",
        "http://a:0",
        "http://a:99999",
        "http://user@a",
        "http://a/",
        "http://a/x",
        "http://a?x",
        "http://a#x",
        "ftp://a",
        "//a",
        "a",
        "http://a b",
        "http://a,http://b",
        "http://-a",
        "http://a..b",
    ],
)
def test_malformed_origins_are_none(text: str) -> None:
    assert parse_origin(text) is None


@given(st.text(max_size=40))
def test_no_text_breaks_a_parser(text: str) -> None:
    for sent in (text, f"http://{text}", f"http://a{text}"):
        parse_origin(sent)
        parse_public_url(sent)
        host_name(sent)
        parse_authority("http", sent)


@pytest.mark.parametrize(
    ("url", "kept", "path"),
    [
        ("https://draw.example.org/", "https://draw.example.org", ""),
        ("https://example.org:443/draw/", "https://example.org/draw", "/draw"),
        ("http://10.0.0.1:8080/a/b-c", "http://10.0.0.1:8080/a/b-c", "/a/b-c"),
        ("", None, ""),
    ],
)
def test_public_urls(url: str, kept: str | None, path: str) -> None:
    settings = Settings(public_url=url)
    assert (settings.public_url, settings.public_path) == (kept, path)


@pytest.mark.parametrize(
    "url", ["draw.example.org", "ftp://a", "https://a?b", "https://a#b", "https://a/b c", "https://u@a", "https://a//b"]
)
def test_wrong_public_urls_are_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="must be an origin"):
        Settings(public_url=url)


@pytest.mark.parametrize(
    ("host", "kept"),
    [
        ("Images.Example.org.", "images.example.org"),
        ("gateway_1", "gateway_1"),
        ("[2001:DB8:0::1]", "2001:db8::1"),
        ("10.0.0.7", "10.0.0.7"),
    ],
)
def test_allowed_hosts_are_kept_as_they_are_compared(host: str, kept: str) -> None:
    assert Settings(allowed_hosts=(host,)).allowed_hosts == (kept,)


@pytest.mark.parametrize(
    "host",
    [
        "https://a.example",
        "a.example:8000",
        "a.example/draw",
        "*",
        "*.example.org",
        "a b",
        "bücher.example",
        "10.0.0.0/8",
        "-a",
    ],
)
def test_allowed_hosts_that_can_never_match_are_refused(host: str) -> None:
    with pytest.raises(ValidationError, match="without scheme, port"):
        Settings(allowed_hosts=("good.example", host))


def test_wrong_origins_and_proxies_are_refused() -> None:
    for origin in ("*", "app.example.org", "https://app.example.org/x"):
        with pytest.raises(ValidationError, match="must be origins"):
            Settings(cors_origins=(origin,))
    with pytest.raises(ValidationError, match="must be addresses or networks"):
        Settings(trusted_proxies=("proxy.example",))
    assert Settings(trusted_proxies=("10.1.2.3/8", "::1")).trusted_proxies == ("10.0.0.0/8", "::1/128")
