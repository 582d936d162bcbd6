"""The web UI's high-resolution pass as ours."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from contract.add_ons import LANCZOS, LATENT, MAX_HIRES_SCALE
from contract.card import ModelCard
from contract.job import JobWarning
from core.errors import InvalidRequest
from service.compat.a1111.catalog import LATENT_MODE, hires_upscalers
from service.compat.a1111.posts import Txt2ImgSent
from service.compat.fields import told
from service.http.problems import shown

STRENGTH, SCALE = 0.75, 2.0
NEAR = 0.1  # how far from the scale that is asked for another is looked for; the web UI cuts the sides instead
NEAREST = "nearest"  # among the web UI's upscalers, of which clients offer each for this pass
# Of the second pass alone; here it has the first one's.
FIXED = frozenset(
    (
        "hr_checkpoint_name",
        "hr_sampler_name",
        "hr_scheduler",
        "hr_prompt",
        "hr_negative_prompt",
        "hr_cfg",
        "hr_distilled_cfg",
    )
)
SAME = ("Use same checkpoint", "Use same sampler", "Use same scheduler")


def second_pass(post: Txt2ImgSent, card: ModelCard, cards: Mapping[str, ModelCard]) -> dict[str, Any] | None:
    """Return our field `hires`; None where it isn't asked for.

    Raises:
        InvalidRequest: no such upscaler, a size of another shape, or nothing to do.
    """
    if not post.enable_hr:
        return None
    strength = STRENGTH if post.denoising_strength is None else post.denoising_strength
    if strength == 0:
        detail = "denoising_strength is 0; with enable_hr it must be above it"
        raise InvalidRequest(detail, field="denoising_strength", value=0, bound="above 0")
    upscaler = _upscaler(post.hr_upscaler, cards)
    steps = post.hr_second_pass_steps or None
    return {"scale": _fitting(post, card), "strength": strength, "steps": steps, "upscaler": upscaler}


def fixed(post: Txt2ImgSent, card: ModelCard) -> Iterator[JobWarning]:
    """Tell what the second pass has in another way than it was asked for. Raises as `second_pass`."""
    if not post.enable_hr:
        return
    for name in sorted(FIXED & post.extras.keys()):
        if post.extras[name] and post.extras[name] not in SAME:
            yield told(name, f"{name} was ignored: the second pass has the first one's")
    mode = (post.hr_upscaler or "").lower()
    if mode.startswith("latent") and mode != LATENT:
        yield told("hr_upscaler", f"hr_upscaler {shown(post.hr_upscaler)!r} counts as {LATENT_MODE}")
    if mode == NEAREST:
        yield told("hr_upscaler", f"hr_upscaler {shown(post.hr_upscaler)!r} counts as Lanczos")
    (field, asked), scale = _asked(post, card), _fitting(post, card)
    if scale != asked:
        width, height = (round(side * scale) for side in _sides(post, card))
        why = f"both sides are multiples of {card.latent_factor} pixels"
        yield told(field, f"{field}: the picture has {width}×{height} pixels, {scale:g} times as many a side: {why}")


def _upscaler(name: str | None, cards: Mapping[str, ModelCard]) -> str:
    wanted = (name or LATENT_MODE).lower()
    if wanted.startswith("latent"):
        return LATENT
    if wanted in ("none", NEAREST, LANCZOS):  # without an upscaler the web UI resizes by Lanczos, too
        return LANCZOS
    known = hires_upscalers(cards)
    found = next((each for each in known if each.lower() == wanted), None)
    if found is None:
        names = [LATENT_MODE, "Lanczos", *known]
        detail = f"hr_upscaler {shown(name)!r} not found; there are {', '.join(names)}"
        raise InvalidRequest(detail, field="hr_upscaler", value=name, bound=names)
    return found


def _sides(post: Txt2ImgSent, card: ModelCard) -> tuple[int, int]:
    return post.width or card.native_size, post.height or card.native_size


def _asked(post: Txt2ImgSent, card: ModelCard) -> tuple[str, float]:
    """Return how many times as large the second pass is to be, and which field says so."""
    (width, height), wanted = _sides(post, card), (post.hr_resize_x or 0, post.hr_resize_y or 0)
    if wanted == (0, 0):
        field, value = "hr_scale", SCALE if post.hr_scale is None else post.hr_scale
    else:
        field, value = ("hr_resize_x", wanted[0] / width) if wanted[0] else ("hr_resize_y", wanted[1] / height)
    if not 1 < value <= MAX_HIRES_SCALE:
        detail = f"{field} makes {width}×{height} {value:g} times as large; above 1 to {MAX_HIRES_SCALE:g} are served"
        raise InvalidRequest(detail, field=field, value=value, bound=[1, MAX_HIRES_SCALE])
    made = round(width * value), round(height * value)
    if all(wanted) and made != wanted:
        detail = f"hr_resize_x and hr_resize_y ask for {wanted[0]}×{wanted[1]}; {width}×{height} keeps its shape"
        raise InvalidRequest(detail, field="hr_resize_y", value=wanted[1], bound=made[1])
    return field, value


def _fitting(post: Txt2ImgSent, card: ModelCard) -> float:
    """Return the scale nearest to the one asked for that makes sides the model can draw; without one, as it was asked.

    Clients offer steps of 0.05, which few sizes can have.
    """
    (_, asked), sides, factor = _asked(post, card), _sides(post, card), card.latent_factor
    reach = [(side, side * (asked - NEAR) / factor, side * (asked + NEAR) / factor) for side in sides]
    others = [factor * n / side for side, low, high in reach for n in range(math.ceil(low), math.floor(high) + 1)]
    fitting = [each for each in (asked, *others) if all(round(side * each) % factor == 0 for side in sides)]
    possible = [each for each in fitting if 1 < each <= MAX_HIRES_SCALE]
    return min(possible, key=lambda each: (abs(each - asked), each), default=asked)
