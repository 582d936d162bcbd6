"""What the kinds resolve each in its own way: the answer's size, and the parameters that only some kinds have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from contract.add_ons import LANCZOS, LATENT, AppliedUpscaler, Hires
from contract.card import ModelCard
from contract.samplers import ORIGINAL_STEPS
from core.errors import InvalidRequest, NotFound
from core.pictures import check_sides
from service.requests.decoding import Size
from service.requests.labels import check_below, class_of, layout_of
from service.requests.posts import (
    Class2ImgPost,
    Depth2ImgPost,
    Drawn,
    Guided,
    HiresPost,
    Img2ImgPost,
    InpaintPost,
    Layout2ImgPost,
    Post,
    Prompted,
    Sized,
    Txt2ImgPost,
    UpscalePost,
)

TOLD = tuple(name for name in Drawn.model_fields if name not in {*Prompted.model_fields, "controls"})


def chosen_size(post: Sized, card: ModelCard, _image: Size | None) -> Size:
    """Return the size that was asked for, else the model's native one."""
    return post.width or card.native_size, post.height or card.native_size


def image_size(_post: Post, _card: ModelCard, image: Size | None) -> Size:
    """Return the uploaded picture's size.

    Raises:
        InvalidRequest: there is no picture.
    """
    if image is None:
        raise InvalidRequest("image is required", field="image", bound="a PNG, JPEG or WebP file")
    return image


def enlarged_size(post: Post, card: ModelCard, image: Size | None) -> Size:
    """Return the uploaded picture's size times the model's scale. Raises as `image_size`."""
    width, height = image_size(post, card, image)
    return width * card.scale, height * card.scale


def no_parameters(_post: Post, _card: ModelCard) -> dict[str, Any]:
    """Return nothing."""
    return {}


def guided(post: Guided, card: ModelCard) -> dict[str, Any]:
    """Return the guidance; 1 for a model that has none.

    Raises:
        InvalidRequest: an interval that ends before it starts, or for a model that it can't be used with.
    """
    default = card.defaults.guidance_scale if "guidance_scale" in card.fields else 1.0
    scale = default if post.guidance_scale is None else post.guidance_scale
    interval = _interval(post.guidance_interval, card)
    return {"guidance_scale": scale, "guidance_interval": interval, "guidance_embedded": card.guidance_embedded}


def _interval(sent: list[float] | None, card: ModelCard) -> tuple[float, float] | None:
    if sent is None:
        return None
    interval = (sent[0], sent[1])
    if "guidance_scale" not in card.fields or card.guidance_embedded:
        detail = f"guidance_interval is of no use to model {card.id}, whose steps have no unguided half"
        raise InvalidRequest(detail, field="guidance_interval", value=sent, bound=None)
    if interval[0] >= interval[1]:
        detail = f"guidance_interval is {sent}; its first number must be below its second"
        raise InvalidRequest(detail, field="guidance_interval", value=sent, bound=[0, 1])
    return interval


def prompted(post: Prompted, card: ModelCard) -> dict[str, Any]:
    """Return the texts and the guidance."""
    negative = card.defaults.negative_prompt if post.negative_prompt is None else post.negative_prompt
    return {"prompt": post.prompt, "negative_prompt": negative, **guided(post, card)}


def drawn(post: Drawn, card: ModelCard) -> dict[str, Any]:
    """Return what SDXL is told of the picture, where it was sent, beside the texts."""
    return {name: getattr(post, name) for name in TOLD if getattr(post, name) is not None} | prompted(post, card)


def painted(post: Txt2ImgPost, card: ModelCard) -> dict[str, Any]:
    """Return where it stops, beside that."""
    return {"denoising_end": post.denoising_end, **drawn(post, card)}


def repainted(post: InpaintPost, card: ModelCard) -> dict[str, Any]:
    """Return how the mask is read, beside that."""
    strength = card.defaults.strength if post.strength is None else post.strength
    return {
        "mask_mode": post.mask_mode,
        "feather": post.feather,
        "strength": strength,
        **drawn(post, card),
    }


def drawn_over(post: Img2ImgPost, card: ModelCard) -> dict[str, Any]:
    """Return the strength, or where it begins, beside that.

    Raises:
        InvalidRequest: both were sent, or it ends before it begins.
    """
    start, end = post.denoising_start, post.denoising_end
    if start is not None and post.strength is not None:
        detail = "strength is of no use with denoising_start, which says how much is left to do"
        raise InvalidRequest(detail, field="strength", value=post.strength, bound="absent")
    if start is not None and end is not None and end <= start:
        detail = f"denoising_end is {end}; it must be above denoising_start, {start}"
        raise InvalidRequest(detail, field="denoising_end", value=end, bound=start)
    default = card.defaults.img2img_strength if start is None else 1.0
    strength = default if post.strength is None else post.strength
    ends = {"denoising_start": start, "denoising_end": end}
    return {"strength": strength, "image_guidance_scale": _image_guidance(post, card), **ends, **drawn(post, card)}


def _image_guidance(post: Img2ImgPost, card: ModelCard) -> float | None:
    if "image_guidance_scale" not in card.fields or post.image_guidance_scale is not None:
        return post.image_guidance_scale
    return card.defaults.image_guidance_scale


def led_by_depth(post: Depth2ImgPost, card: ModelCard) -> dict[str, Any]:
    """Return the strength, beside what is drawn."""
    strength = card.defaults.strength_of("depth2img") if post.strength is None else post.strength
    return {"strength": strength, **drawn(post, card)}


def enlarged(post: UpscalePost, card: ModelCard) -> dict[str, Any]:
    """Return the noise level, beside the texts.

    Raises:
        InvalidRequest: a level that the model hasn't.
    """
    level = card.defaults.noise_level if post.noise_level is None else post.noise_level
    check_below("noise_level", level, card.noise_levels, card)
    return {"noise_level": level, **prompted(post, card)}


def classed(post: Class2ImgPost, card: ModelCard) -> dict[str, Any]:
    """Return the class and the guidance. Raises as `class_of`."""
    return {"class_id": class_of(post, card), **guided(post, card)}


def laid_out(post: Layout2ImgPost, card: ModelCard) -> dict[str, Any]:
    """Return the numbers of the boxes. Raises as `layout_of`."""
    return {"tokens": layout_of(post, card)}


def second_pass(
    post: Txt2ImgPost, drawn: Mapping[str, Any], card: ModelCard, models: Mapping[str, ModelCard], max_pixels: int
) -> Hires | None:
    """Return the pass at a higher resolution that follows what is `drawn` by other parameters; None of none.

    Raises:
        InvalidRequest: a size or number of steps that can't be done, or a picture that is left unfinished.
        NotFound: an upscaler that isn't known.
    """
    sent = post.hires
    if sent is None:
        return None
    if post.denoising_end is not None:
        detail = "hires enlarges a finished picture; with denoising_end it is left unfinished"
        raise InvalidRequest(detail, field="hires", value=post.denoising_end, bound="without denoising_end")
    by = _upscaler(sent, models)
    hires = Hires(
        scale=sent.scale,
        strength=sent.strength,
        steps=_second_steps(sent, drawn),
        upscaler=sent.upscaler,
        enlarged_by=by,
    )
    _check_enlarged(hires, drawn, card, max_pixels)
    return hires


def _second_steps(sent: HiresPost, drawn: Mapping[str, Any]) -> int:
    steps: int = sent.steps or drawn["steps"]
    if "timesteps" in drawn:  # both passes visit them, and so they stand for any sampler's own
        if steps != drawn["steps"]:
            detail = f"timesteps say which steps both passes have; leave out hires.steps, which is {steps}"
            raise InvalidRequest(detail, field="hires.steps", value=steps, bound=drawn["steps"])
        return steps
    most = ORIGINAL_STEPS.get(drawn["sampler"])
    if most is not None and steps > most:
        detail = f"hires.steps is {steps}; sampler {drawn['sampler']} takes 1 to {most}"
        raise InvalidRequest(detail, field="hires.steps", value=steps, bound=[1, most])
    return steps


def _check_enlarged(hires: Hires, drawn: Mapping[str, Any], card: ModelCard, max_pixels: int) -> None:
    first = drawn["width"], drawn["height"]
    size, factor = hires.size(*first), card.latent_factor
    shown = f"{first[0]}×{first[1]} become {size[0]}×{size[1]}"
    if any(side % factor for side in size):
        detail = f"hires.scale is {hires.scale:g}: {shown}; both must be multiples of {factor}"
        raise InvalidRequest(detail, field="hires.scale", value=hires.scale, bound=f"multiples of {factor} pixels")
    if size[0] * size[1] > max_pixels:
        detail = f"hires.scale is {hires.scale:g}: {shown}; at most {max_pixels} pixels are made"
        raise InvalidRequest(detail, field="hires.scale", value=hires.scale, bound=max_pixels)
    check_sides(size, drawn["output_format"], max_pixels, "hires.scale")
    if hires.enlarged_by is not None:
        between = first[0] * hires.enlarged_by.scale, first[1] * hires.enlarged_by.scale
        check_sides(between, "png", max_pixels, "hires.upscaler")


def _upscaler(sent: HiresPost, models: Mapping[str, ModelCard]) -> AppliedUpscaler | None:
    if sent.upscaler in (LATENT, LANCZOS):
        return None
    known = {card.id: card for card in models.values() if "upscale" in card.tasks}
    card, names = known.get(sent.upscaler), [LATENT, LANCZOS, *known]
    if card is None:
        detail = f"hires.upscaler is {sent.upscaler!r}; it must be one of {', '.join(names)}"
        raise NotFound(detail, field="hires.upscaler", value=sent.upscaler, bound=names)
    own = card.defaults
    return AppliedUpscaler(
        id=card.id,
        hash=card.hash,
        scale=card.scale,
        steps=own.steps,
        sampler=own.sampler,
        eta=own.eta,
        schedule=own.schedule,
        guidance_scale=own.guidance_scale if "guidance_scale" in card.fields else 1.0,
        noise_level=own.noise_level,
    )
