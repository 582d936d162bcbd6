"""Multipart forms: what browsers and libraries send is read, what is cut short or in another codec is refused."""

from __future__ import annotations

import pytest

from core.errors import InvalidRequest, MalformedRequest, UnsupportedMedia
from service.requests.forms import MAX_PARTS, Part, read_form

TYPE = "multipart/form-data; boundary=x"


def form(*parts: tuple[str, bytes], end: bytes = b"--x--\r\n") -> bytes:
    pieces = (b"--x\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + data for head, data in parts)
    return b"".join(piece + b"\r\n" for piece in pieces) + end


def test_texts_and_files_are_told_apart_by_the_file_name() -> None:
    body = form(
        ('name="prompt"', "Pinguïn\r\n".encode()), ('name="image"; filename="a; name=\\"b\\".png"', b"\x89\r\n\x1a")
    )
    parts = read_form(TYPE, body)
    assert parts == [Part("prompt", False, "Pinguïn\r\n".encode()), Part("image", True, b"\x89\r\n\x1a")]
    assert parts[0].text == "Pinguïn\r\n"


@pytest.mark.parametrize(
    "content_type",
    [
        'multipart/form-data; boundary="x"',
        "multipart/form-data;charset=UTF-8 ; boundary=x; a=b",
        'multipart/form-data; a="; boundary=y" ; boundary=x',
    ],
)
def test_other_ways_to_say_it(content_type: str) -> None:
    head = b"content-type: text/plain\r\ncontent-disposition: FORM-DATA; filename*=UTF-8''a; name=image"
    assert read_form(content_type, b"preamble\r\n--x \r\n" + head + b"\r\n\r\n1\r\n--x--\r\nepilogue") == [
        Part("image", True, b"1")
    ]


def test_an_empty_form_has_no_parts() -> None:
    assert read_form(TYPE, b"--x--\r\n") == []


@pytest.mark.parametrize("end", [b"", b"--x", b"--x\r\n", b"--", b"--y--\r\n"])
def test_a_form_without_its_end_is_refused(end: bytes) -> None:
    with pytest.raises(MalformedRequest, match=r"last boundary|Content-Disposition"):
        read_form(TYPE, form(('name="prompt"', b"red"), end=end))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        form(*[('name="a"', b"")] * (MAX_PARTS + 1)),
        form(("", b"red")),
        form(('name=""', b"red")),
        b"--x\r\n\r\nred\r\n--x--",
        form((f'name="a"; b="{"c" * 5000}"', b"red")),
    ],
)
def test_what_is_no_form_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedRequest):
        read_form(TYPE, body)


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data", f'{TYPE[:-1]}"x', "multipart/form-data; boundary=" + "x" * 71]
)
def test_a_boundary_is_needed(content_type: str) -> None:
    with pytest.raises(MalformedRequest, match="boundary"):
        read_form(content_type, b"--x--")


@pytest.mark.parametrize("charset", ["punycode", "utf-16", "idna", "latin-1", "rot13", "none-such"])
def test_the_client_chooses_no_codec(charset: str) -> None:
    with pytest.raises(UnsupportedMedia, match="charset"):
        read_form(f"{TYPE}; charset={charset}", form(('name="prompt"', b"red")))


def test_a_text_that_is_no_utf8_is_refused() -> None:
    [part] = read_form(TYPE, form(('name="prompt"', b"\xe9t\xe9")))
    with pytest.raises(InvalidRequest, match="prompt"):
        _ = part.text
