"""The web UI's high-resolution pass as ours."""

from __future__ import annotations

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
    return {"scale": _scale(post, card), "strength": strength, "steps": steps, "upscaler": upscaler}


def fixed(post: Txt2ImgSent) -> Iterator[JobWarning]:
    """Tell what the second pass was to have for itself, and takes from the first."""
    for name in sorted(FIXED & post.extras.keys()) if post.enable_hr else ():
        if post.extras[name] and post.extras[name] not in SAME:
            yield told(name, f"{name} was ignored: the second pass has the first one's")
    mode = (post.hr_upscaler or "").lower()
    if post.enable_hr and mode.startswith("latent") and mode != LATENT:
        yield told("hr_upscaler", f"hr_upscaler {shown(post.hr_upscaler)!r} counts as {LATENT_MODE}")
    if post.enable_hr and mode == NEAREST:
        yield told("hr_upscaler", f"hr_upscaler {shown(post.hr_upscaler)!r} counts as Lanczos")


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


def _scale(post: Txt2ImgSent, card: ModelCard) -> float:
    width, height = post.width or card.native_size, post.height or card.native_size
    wanted = (post.hr_resize_x or 0, post.hr_resize_y or 0)
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
    return value
