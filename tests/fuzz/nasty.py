"""What fuzzed requests are made of: values, headers and paths that readers of other services stumbled over."""

from __future__ import annotations

import io
from random import Random
from typing import Any

from PIL import Image

from tests.gateway import mask

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "FOO", "A" * 60, "*")
TEXTS = (
    "", " ", "\x00", "a\x00b", "ä", "𝔘", "\u202e", "\ufeff", "'", '"', "\\", "../../etc/passwd", "%00", "%s%n",
    "${7*7}", "null", "NaN", "-1", "1e999", "0x10", "١٢", "true", "[]", "{}", "a" * 5000, "A,B;C=D", "\r\nX: y",
    "data:;base64,", "=",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    *TEXTS, None, True, False, 0, -1, 1, 2**31, 2**32, 2**63, 2**64, -(2**63) - 1, 10**400, 0.5, -0.0, 1e308, 5e-324,
    [], {}, [[]], [None], {"a": 1}, {"": None}, [1, 2, 3], ["x"] * 100,
)  # fmt: skip
LITERALS = (b"NaN", b"Infinity", b"-Infinity", b"1e999", b'"\\ud800"', b'"\xff"', b"01", b"+1", b"'x'", b"[" * 300, b"")
NAMES = (
    "Accept", "Accept-Encoding", "Accept-Language", "Authorization", "Connection", "Content-Encoding",
    "Content-Length", "Content-Type", "Cookie", "Expect", "Host", "Idempotency-Key", "If-Match", "If-Modified-Since",
    "If-None-Match", "If-Range", "Last-Event-ID", "Origin", "Prefer", "Range", "Referer", "Sec-Fetch-Site", "TE",
    "Trailer", "Transfer-Encoding", "Upgrade", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto",
    "X-Request-ID", "X-HTTP-Method-Override", "Access-Control-Request-Method", "Access-Control-Request-Headers", "",
    "a b", "ä",
)  # fmt: skip
HEADERS = (
    "*/*", "image/png", "image/gif", "image/*;q=0", "text/html, image/webp;q=0.1", "image/png;q=nan", "/", ";", ",,,",
    "a/b;=", "wait=0", "wait=-1", "wait=nan", "wait=99999999999999999999", "wait", "respond-async, wait=0.1",
    "Bearer", "Bearer x y", "Basic Og==", "bytes=0-", "bytes=-0", "bytes=9-1", "bytes=0-0,5-6",
    "bytes=18446744073709551616-", "\"x\"", "W/\"\"", "*", "Thu, 01 Jan 1970 00:00:00 GMT", "Thu, 99 Foo 0000", "0-0",
    "18446744073709551616-0", "1-1-1", "-", "null", "http://", "http://[::1", "http://localhost:99999",
    "https://例え.jp", "localhost:0", "[::1]:8000", "127.0.0.1", "a" * 9000, "chunked", "gzip", "identity, gzip",
    "identity", "100-continue", "websocket", "upgrade", "close", "keep-alive", "application/json",
    "application/json; charset=utf-16", "application/json; charset=\"", "multipart/form-data",
    "multipart/form-data; boundary=", "multipart/form-data; boundary=\"", "application/x-www-form-urlencoded",
    "text/plain", "+0", "0, 0", "١", "\t",
)  # fmt: skip
PATHS = (
    "/", "//", "/.", "/..", "/../..", "/%2e%2e/%2e%2e/etc/passwd", "/%00", "/%ff%fe", "/%", "/%zz", "/ä",
    "/index.html", "/livez", "/readyz", "/metrics", "/openapi.json", "/docs", "/docs/", "/v1", "/v1/", "/v1/jobs",
    "/v1/jobs/", "/v1/jobs//", "/v1/jobs/{job}", "/v1/jobs/{job}/events", "/v1/jobs/{job}/trace",
    "/v1/jobs/{job}/deliveries", "/v1/jobs/{ended}", "/v1/jobs/{ended}/events", "/v1/jobs/{ended}/trace",
    "/v1/images/{image}", "/v1/images/{ended}-99999999999999999999", "/v1/images/{ended}--1", "/v1/images/x",
    "/v1/images/", "/v1/models", "/v1/models/painter", "/v1/models/..%2f..", "/v1/jobs/%00", "/v1/jobs/" + "a" * 3000,
    "/v1/jobs/%F0%9F%92%A5", "/a;b=c", "*", "http://localhost/v1/jobs", "http://", "ftp://localhost/", "localhost:80",
    "/static/%5c..%5c", "/CON", "/~root", "/app.js/", "/" + "x/" * 500,
)  # fmt: skip
QUERIES = (
    "dry_run", "download", "purge", "status", "kind", "limit", "cursor", "expires", "signature", "key", "", "a[]",
    "dry_run[x]",
)  # fmt: skip
FIELDS = ("image", "mask", "prompt", "steps", "", "image\x00", "ä", "a" * 300, "_charset_", "__proto__", "model_config")
TYPES = ("image/png", "image/svg+xml", "", "text/plain; charset=utf-7", "multipart/mixed; boundary=x", "a" * 500, "/")


def pictures() -> tuple[bytes, ...]:
    """Small files of many formats, of which only PNG, JPEG and WebP are read."""
    grey = Image.radial_gradient("L").resize((32, 32))
    made = [_file(grey.convert(mode), "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")]
    made += [_file(grey.convert("RGB"), name) for name in ("JPEG", "WEBP", "GIF", "BMP", "TIFF", "ICO")]
    return (*made, mask(), b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"%PDF-1.7")


def _file(picture: Image.Image, name: str) -> bytes:
    data = io.BytesIO()
    picture.save(data, name)
    return data.getvalue()


def damaged(rng: Random, data: bytes, times: int = 4) -> bytes:
    """The same with some bytes changed, taken out, doubled or cut off."""
    out = bytearray(data)
    for _ in range(rng.randint(1, times)):
        at = rng.randrange(len(out) + 1)
        end = min(len(out), at + rng.randint(1, 12))
        match rng.randrange(6):
            case 0:
                out[at:end] = rng.randbytes(end - at)
            case 1:
                del out[at:end]
            case 2:
                out[at:at] = out[at:end] * rng.randint(1, 50)
            case 3:
                out[at:at] = rng.choice((b"\r\n", b"\0", b"\xff" * 8, b"--x", b"\n\n", b": ", b'"', b"%"))
            case 4:
                del out[at:]
            case _:
                out[at:end] = bytes(each ^ (1 << rng.randrange(8)) for each in out[at:end])
    return bytes(out)
