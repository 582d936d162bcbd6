"""Requests by number: a seed and a number make the same bytes again, so that one that found something can be sent anew.

`{job}`, `{ended}`, `{image}` and `{key}` stand for ids that only the running service knows.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Any

from tests.fuzz import nasty

KINDS = {"txt2img": (), "inpaint": ("image", "mask"), "upscale": ("image",), "img2img": ("image",), "class2img": (),
         "semantic2img": ("image",), "depth2img": ("image", "depth"), "layout2img": ()}  # fmt: skip
WITH_FILES = tuple(kind for kind, files in KINDS.items() if files)
FIELDS: dict[str, tuple[Any, ...]] = {
    "prompt": ("red heart", ""),
    "negative_prompt": ("stars",),
    "model": ("painter", "upscaler", "none"),
    "width": (64, 100, 1024),
    "height": (64, 2**20),
    "steps": (1, 20, 1000),
    "sampler": ("ddim", "plms", "unipc"),
    "guidance_scale": (0, 1.5, 50),
    "eta": (0, 1.0),
    "seed": (-1, 0, 2**32 - 1),
    "num_images": (1, 16),
    "output_format": ("png", "jpeg", "webp"),
    "priority": ("bulk",),
    "deadline_ms": (1, 86_400_000),
    "determinism": ("strict",),
    "preview_every": (5,),
    "webhook_url": ("https://example.org/x",),
    "mask_mode": ("white", "black", "alpha", "auto"),
    "feather": (0, 256),
    "strength": (0.001, 1),
    "noise_level": (0, 999),
    "class_id": (0, 3),
    "label": ("cat",),
    "boxes": ([{"box": [0, 0.25, 0.5, 1], "class_id": 1}, {"box": [0.5, 0, 1, 1], "label": "dog"}],),
    "crop": ([0, 0, 1, 1],),
    "tokens": ([0, 1, 2, 0, 99],),
}


@dataclass(slots=True)
class Request:
    """One request; `whole` while its head and body agree, so that an answer must come."""

    method: str = "GET"
    target: str = "/"
    headers: list[tuple[str, bytes]] = field(default_factory=list)
    body: bytes = b""
    whole: bool = True
    raw: bytes | None = None  # in place of all of it

    def encode(self) -> bytes:
        """Bytes for the wire."""
        if self.raw is not None:
            return self.raw
        lines = [f"{self.method} {self.target} HTTP/1.1".encode()]
        lines += [name.encode("utf-8") + b": " + value for name, value in self.headers]
        return b"\r\n".join([*lines, b"", self.body])


def make(seed: int, number: int) -> Request:
    """Request `number` of a run."""
    rng = Random(f"{seed}:{number}")
    request = rng.choices((_read, _json, _form, _bytes), (4, 6, 6, 1))[0](rng)
    request.headers[:0] = [("Host", b"127.0.0.1"), ("Authorization", b"Bearer {key}"), ("Connection", b"close")]
    if request.body:
        request.headers.append(("Content-Length", str(len(request.body)).encode()))
    for change in rng.choices((_same, _header, _method, _query, _target, _length, _raw), (24, 5, 1, 2, 1, 1, 1), k=2):
        change(rng, request)
    return request


@cache
def _pictures() -> tuple[bytes, ...]:
    return nasty.pictures()


def _picture(rng: Random) -> bytes:
    data = rng.choice(_pictures())
    return nasty.damaged(rng, data) if rng.random() < 0.3 else data


def _fields(rng: Random) -> dict[str, Any]:
    names = rng.sample(list(FIELDS), rng.choice((0, 0, 1, 1, 2, 3, 6)))
    fields = {name: rng.choice(FIELDS[name]) for name in names}
    for name in names[: rng.choice((0, 0, 0, 1))]:
        fields[name] = rng.choice(nasty.VALUES)
    if rng.random() < 0.05:
        fields[rng.choice(nasty.FIELDS)] = rng.choice(nasty.VALUES)
    return fields


def _read(rng: Random) -> Request:
    """What only asks, or deletes."""
    return Request(rng.choices(("GET", "HEAD", "DELETE", "OPTIONS"), (6, 1, 1, 1))[0], rng.choice(nasty.PATHS))


def _json(rng: Random) -> Request:
    kind, fields = rng.choice(list(KINDS)), _fields(rng)
    for name in KINDS[kind]:
        fields[name] = base64.b64encode(_picture(rng)).decode() if rng.random() < 0.9 else rng.choice(nasty.VALUES)
    body = json.dumps(rng.choices((fields, [fields], {"": fields}), (20, 1, 1))[0]).encode()
    if rng.random() < 0.1:
        body = body.replace(rng.choice((b": ", b"null", b'"', b"1")), rng.choice(nasty.LITERALS), 1)
    if rng.random() < 0.05:
        body = nasty.damaged(rng, body)
    return Request("POST", f"/v1/{kind}", [("Content-Type", b"application/json")], body)


def _form(rng: Random) -> Request:
    kind, boundary = rng.choice(WITH_FILES), rng.choice((b"x", b"----WebKitFormBoundary", b"a" * 70, b"'()+_,-./:=?"))
    parts = [_part(rng, name, str(value).encode("utf-8", "replace")) for name, value in _fields(rng).items()]
    parts += [_part(rng, name, _picture(rng), b'; filename="i.png"') for name in KINDS[kind]]
    rng.shuffle(parts)
    body = b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + boundary + b"--\r\n"
    if rng.random() < 0.05:
        body = nasty.damaged(rng, body)
    return Request("POST", f"/v1/{kind}", [("Content-Type", b"multipart/form-data; boundary=" + boundary)], body)


def _part(rng: Random, name: str, data: bytes, file: bytes = b"") -> bytes:
    name = rng.choice(nasty.FIELDS) if rng.random() < 0.03 else name
    if rng.random() < 0.05:
        file = rng.choice((b"; filename", b"; filename=", b"; filename*=UTF-8''%ff", b"; filename*=x", b'; filename="'))
    head = b'Content-Disposition: form-data; name="' + name.encode() + b'"' + file
    if rng.random() < 0.2:
        head += b"\r\nContent-Type: " + rng.choice(nasty.TYPES).encode()
    if rng.random() < 0.05:
        head += b"\r\nContent-Transfer-Encoding: " + rng.choice((b"base64", b"quoted-printable", b"7bit"))
    return head + b"\r\n\r\n" + data


def _bytes(rng: Random) -> Request:
    """No HTTP at all, or hardly."""
    beginnings = (
        b"",
        b"GET ",
        b"GET / HTTP/",
        b"POST /v1/txt2img HTTP/1.1\r\n",
        b"\x16\x03\x01",
        b"PRI * HTTP/2.0\r\n\r\n",
    )
    return Request(raw=rng.choice(beginnings) + rng.randbytes(rng.choice((0, 5, 400))) + b"\r\n\r\n", whole=False)


def _same(_rng: Random, _request: Request) -> None:
    """Leave it as it is."""


def _header(rng: Random, request: Request) -> None:
    name = rng.choice(nasty.NAMES)
    if rng.random() < 0.7:
        request.headers = [item for item in request.headers if item[0] != name]
    value = rng.choice(nasty.HEADERS).encode() if rng.random() < 0.8 else rng.randbytes(rng.choice((1, 8, 200)))
    request.headers.append((name, value))
    request.whole = request.whole and name not in ("Content-Length", "Transfer-Encoding", "Expect")


def _method(rng: Random, request: Request) -> None:
    request.method = rng.choice(nasty.METHODS)


def _query(rng: Random, request: Request) -> None:
    values = (*nasty.TEXTS, "1", "true", "succeeded", "2.5", "%ff", "%", "999999999999999999999")
    pairs = [f"{rng.choice(nasty.QUERIES)}={rng.choice(values)}" for _ in range(rng.randint(1, 3))]
    request.target += "?" + rng.choice(("&", ";", "&&")).join(pairs).replace(" ", "+").replace("\r\n", "%0d%0a")


def _target(rng: Random, request: Request) -> None:
    request.target = nasty.damaged(rng, request.target.encode(), 2).decode("latin-1")


def _length(rng: Random, request: Request) -> None:
    """A body in chunks, or of another length than its head says."""
    request.headers = [item for item in request.headers if item[0] != "Content-Length"]
    if rng.random() < 0.6:
        half = len(request.body) // 2
        cut = [part for part in (request.body[:half], request.body[half:]) if part]
        request.body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in cut) + b"0\r\n\r\n"
        request.headers.append(("Transfer-Encoding", b"chunked"))
    else:
        request.headers.append(("Content-Length", rng.choice((b"0", b"5", b"99999999", b"999999999999999999999"))))
        request.whole = False


def _raw(rng: Random, request: Request) -> None:
    request.raw, request.whole = nasty.damaged(rng, request.encode()), False
