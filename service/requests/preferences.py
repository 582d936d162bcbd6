"""How a client wants its answer: `Prefer: wait=N`, `Accept: image/*`, `Idempotency-Key`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from starlette.datastructures import Headers

from contract.common import OutputFormat
from core.errors import InvalidRequest, NotAcceptable
from service.http.problems import MEDIA_TYPE as PROBLEM_TYPE
from service.http.problems import cut
from service.requests.posts import Post

MEDIA_TYPES: dict[OutputFormat, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
_ANSWERED = ("application/json", PROBLEM_TYPE, *MEDIA_TYPES.values())
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(-?\d+(?:\.\d+)?)\"?(?=$|[,;\s])", re.IGNORECASE)
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True, slots=True)
class Preferences:
    """`wait_s` is None where the client doesn't wait; `picture`: it wants the bytes; `dry_run`: it wants no job."""

    wait_s: float | None
    wait_preferred: str | None
    picture: bool
    output_format: OutputFormat
    key: str | None
    dry_run: bool = False
    accepted: tuple[OutputFormat, ...] = ()  # the formats of a picture, best first


def read_preferences(headers: Headers, post: Post, max_wait_s: float, *, dry_run: bool = False) -> Preferences:
    """Parse the headers against the post.

    Raises:
        NotAcceptable: nothing is accepted that a task answers.
        InvalidRequest: an image is accepted that the request doesn't make, or a header is malformed.
    """
    check_acceptable(headers)
    accepted = _accepted_images(headers)
    output_format = post.output_format or (accepted[0] if accepted else "png")
    if accepted:
        _check_picture(post, output_format, accepted)
    preferred = _WAIT.search(headers.get("prefer", ""))
    wait_s = float(preferred[1]) if preferred else max_wait_s if accepted else None
    if wait_s is not None and wait_s < 0:
        raise InvalidRequest("Prefer: wait must not be negative", field="Prefer", value=wait_s, bound="0 or more")
    return Preferences(
        wait_s=None if wait_s is None else min(wait_s, max_wait_s),
        wait_preferred=f"wait={preferred[1]}" if preferred else None,
        picture=bool(accepted),
        output_format=output_format,
        key=_key(headers),
        dry_run=dry_run,
        accepted=tuple(accepted),
    )


def _check_picture(post: Post, output_format: OutputFormat, accepted: list[OutputFormat]) -> None:
    if post.num_images > 1:
        raise InvalidRequest(
            "an answer that is an image holds one; ask for JSON or for num_images 1",
            field="num_images",
            value=post.num_images,
            bound="1 with Accept: image/*",
        )
    check_accepted(output_format, accepted)


def check_accepted(output_format: OutputFormat, accepted: Sequence[OutputFormat]) -> None:
    """Check that a client which accepts these formats can be answered with `output_format`.

    Raises:
        InvalidRequest: it can't.
    """
    if output_format not in accepted:
        media = ", ".join(MEDIA_TYPES[each] for each in accepted)
        raise InvalidRequest(
            f"output_format {output_format} contradicts Accept: {media}",
            field="output_format",
            value=output_format,
            bound=list(accepted),
        )


def check_acceptable(headers: Headers) -> None:
    """Check that a client which wants an image accepts one of a format that is made, or JSON.

    Raises:
        NotAcceptable: it accepts none of them.
    """
    sent = headers.get("accept", "")
    if sent and not _acceptable(sent):
        bound = ", ".join(_ANSWERED)
        raise NotAcceptable(
            f"Accept is {cut(sent)!r}; answers are {bound}", field="Accept", value=cut(sent), bound=bound
        )


@lru_cache(maxsize=256)
def _acceptable(accept: str) -> bool:
    weights = _weights(accept)
    wants_image = any(media.startswith("image/") and q > 0 for media, q in weights.items())
    return not wants_image or any(_weight(weights, media) > 0 for media in _ANSWERED)


def _weight(weights: Mapping[str, float], media: str) -> float:
    """Return what the most specific range says of a media type (RFC 9110, 12.5.1)."""
    ranges = (media, f"{media.partition('/')[0]}/*", "*/*")
    return next((weights[each] for each in ranges if each in weights), 0.0)


def _accepted_images(headers: Headers) -> list[OutputFormat]:
    """Return the formats that the client wants as bytes, best first; none where it takes JSON at least as gladly."""
    sent = headers.get("accept", "")
    return list(_accepted(sent)) if sent else []


@lru_cache(maxsize=256)
def _accepted(accept: str) -> tuple[OutputFormat, ...]:
    weights = _weights(accept)
    json = max(weights.get(each, 0.0) for each in ("application/json", "application/*", "*/*"))
    quality = {each: weights.get(media, weights.get("image/*", 0.0)) for each, media in MEDIA_TYPES.items()}
    wanted = [each for each, q in quality.items() if q > 0 and q > json]
    if not wanted and any(media in weights for media in MEDIA_TYPES.values()) and "application/json" not in weights:
        wanted = [each for each, media in MEDIA_TYPES.items() if weights.get(media, 0.0) > 0]  # image/png, */*
    return tuple(sorted(wanted, key=lambda each: -quality[each]))


def _weights(accept: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for item in accept.split(","):
        media, *parameters = (part.strip().lower() for part in item.split(";"))
        q = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        weights[media] = float(q) if re.fullmatch(r"[01](\.\d{0,3})?", q) else 1.0
    return weights


def _key(headers: Headers) -> str | None:
    keys = headers.getlist("idempotency-key")
    if len(keys) > 1:
        raise InvalidRequest("Idempotency-Key is there twice", field="Idempotency-Key", value=len(keys), bound="once")
    key = keys[0] if keys else None
    if key is not None and not _KEY.fullmatch(key):
        detail = "Idempotency-Key must be 1 to 255 visible ASCII characters"
        raise InvalidRequest(detail, field="Idempotency-Key", value=key[:200], bound="1 to 255 visible characters")
    return key
