"""Prefer, Accept and Idempotency-Key as clients write them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.datastructures import Headers

from core.errors import InvalidRequest, NotAcceptable
from service.requests.posts import Txt2ImgPost
from service.requests.preferences import read_preferences


@pytest.mark.parametrize(
    ("accept", "picture", "output_format"),
    [
        ("", False, "png"),
        ("*/*", False, "png"),
        ("application/json", False, "png"),
        ("text/html", False, "png"),
        ("image/png", True, "png"),
        ("IMAGE/PNG", True, "png"),
        ("image/webp", True, "webp"),
        ("image/*", True, "png"),
        ("image/webp, image/*;q=0.5", True, "webp"),
        ("image/jpeg;q=0.4, image/webp;q=0.8", True, "webp"),
        ("image/webp, application/json", False, "png"),
        ("image/webp, application/json;q=0.5", True, "webp"),
        ("image/png, */*;q=0.8", True, "png"),
        ("image/png, */*", True, "png"),
        ("image/png;q=0", False, "png"),
    ],
)
def test_accept(accept: str, picture: bool, output_format: str) -> None:
    found = read_preferences(Headers({"accept": accept}), Txt2ImgPost(), 60)
    assert (found.picture, found.output_format) == (picture, output_format)
    assert found.wait_s == (60 if picture else None)


@pytest.mark.parametrize(
    "accept",
    ["image/gif", "image/avif, image/svg+xml;q=0.5", "image/gif, text/html", "image/gif, application/json;q=0"],
)
def test_images_that_are_never_made_are_not_acceptable(accept: str) -> None:
    with pytest.raises(NotAcceptable, match="image/png"):
        read_preferences(Headers({"accept": accept}), Txt2ImgPost(), 60)


@pytest.mark.parametrize("accept", ["image/gif, */*;q=0.1", "image/gif, application/json", "image/gif, application/*"])
def test_a_second_choice_is_answered(accept: str) -> None:
    assert not read_preferences(Headers({"accept": accept}), Txt2ImgPost(), 60).picture


def test_a_wanted_format_within_a_range() -> None:
    found = read_preferences(Headers({"accept": "image/*"}), Txt2ImgPost(output_format="webp"), 60)
    assert (found.picture, found.output_format) == (True, "webp")


@pytest.mark.parametrize(
    ("prefer", "wait_s"),
    [
        ("wait=5", 5),
        ("respond-async, wait=5", 5),
        ("wait=5; foo", 5),
        ('wait="7"', 7),
        ("Wait = 0.5", 0.5),
        ("wait=600", 60),
        ("wait=0", 0),
        ("wait=soon", None),
        ("await=5", None),
        ("respond-async", None),
    ],
)
def test_prefer(prefer: str, wait_s: float | None) -> None:
    assert read_preferences(Headers({"prefer": prefer}), Txt2ImgPost(), 60).wait_s == wait_s


@settings(deadline=None)
@given(st.text(st.characters(max_codepoint=255), max_size=40), st.text(st.characters(max_codepoint=255), max_size=40))
def test_any_header_is_read_or_refused(accept: str, prefer: str) -> None:
    headers = Headers(raw=[(b"accept", accept.encode("latin-1")), (b"prefer", prefer.encode("latin-1"))])
    with contextlib.suppress(InvalidRequest):
        found = read_preferences(headers, Txt2ImgPost(), 60)
        assert found.wait_s is None or 0 <= found.wait_s <= 60
