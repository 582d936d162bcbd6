"""txt2img and img2img of the web UI as jobs of ours."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from contract.base import Kind
from contract.card import ModelCard
from contract.common import MAX_IMAGES
from contract.job import JobWarning
from core.errors import InvalidRequest
from core.reframing import Fill, Fit, Framing
from service.compat.a1111.catalog import find_model
from service.compat.a1111.hires import fixed, second_pass
from service.compat.a1111.ignored import ignored
from service.compat.a1111.pictures import Region, scaled_feather
from service.compat.a1111.posts import DrawingPost, Img2ImgSent, Txt2ImgSent
from service.compat.a1111.prompts import read_prompt
from service.compat.a1111.samplers import WITH_ETA, choose
from service.compat.fields import decoded, post_body, told
from service.requests.bodies import Body
from service.requests.decoding import Reading
from service.requests.kinds import KINDS
from service.state import Gateway

PREVIEW_EVERY = 5
MASK_BLUR = 4
ONE_STEP = 0.001  # the strength that leaves one step of at most 1000; the web UI runs one at 0, too
FITS: tuple[Fit, ...] = ("stretch", "crop", "pad", "stretch")  # by resize_mode
FILLS: tuple[Fill, ...] = ("surroundings", "original", "original", "grey")  # by inpainting_fill
NOISE, LATENT_RESIZE = 2, 3
CHECKPOINT = "sd_model_checkpoint"
CLIP_SKIP = "CLIP_stop_at_last_layers"
PAGE_SCRIPTS = ("seed", "sampler", "refiner")  # parts of the web UI's page: its own API doesn't read them either


@dataclass(frozen=True, slots=True)
class Drawing:
    """A request of the web UI's, translated."""

    body: Body
    warnings: tuple[JobWarning, ...]
    region: Region | None = None


@dataclass(slots=True)
class _Fields:
    """Fields of our post, and what the client is told."""

    card: ModelCard
    values: dict[str, Any]
    warnings: list[JobWarning]


async def txt2img(gateway: Gateway, post: Txt2ImgSent) -> Drawing:
    """Translate text to image. Raises LatentdError as our own endpoint refuses it."""
    found = await _fields(gateway, post, "txt2img")
    found.values |= {"width": post.width, "height": post.height}
    cards = await gateway.cards.all() if post.enable_hr else {}
    found.values["hires"] = second_pass(post, found.card, cards)
    found.warnings += fixed(post, found.card)
    return Drawing(_body(found, "txt2img", {}), tuple(found.warnings))


async def img2img(gateway: Gateway, post: Img2ImgSent) -> Drawing:
    """Translate a picture to draw over, or with a mask to repaint: whole, or the masked region alone.

    Raises:
        LatentdError: as our own endpoint refuses it.
    """
    kind: Kind = "img2img" if post.mask is None else "inpaint"
    found = await _fields(gateway, post, kind)
    frame = _frame(post)
    files = {"image": await decoded("init_images", post.init_images[0])}
    if post.mask is not None:
        files["mask"] = await decoded("mask", post.mask)
    reading = Reading(how="framed", max_pixels=gateway.settings.max_pixels, frame=frame)
    framed = (await gateway.decoders.decode(files, reading)).data
    found.values |= _repainting(post, found.card, found.warnings)
    region = _region(post, framed)
    if region is not None:
        found.values["feather"] = await asyncio.to_thread(scaled_feather, region, framed["image"])
    if post.resize_mode == LATENT_RESIZE:
        found.warnings.append(told("resize_mode", "resize_mode 3 is of latents; the picture was stretched as by 0"))
    drawn = {name: framed[name] for name in ("image", "mask") if name in framed}
    body = _body(found, kind, drawn)
    return Drawing(body, tuple(found.warnings), region)


def _frame(post: Img2ImgSent) -> Framing:
    sides = (post.width, post.height)
    if (sides[0] is None) != (sides[1] is None):
        raise InvalidRequest("width and height go together", field="width", value=sides[0], bound="both, or none")
    fit = FITS[post.resize_mode or 0]
    size = None if sides[0] is None or sides[1] is None else (sides[0], sides[1])
    if post.mask is None:
        return Framing(size=size, fit=fit)
    full = post.inpaint_full_res is None or bool(post.inpaint_full_res)
    return Framing(
        size=size,
        fit=fit,
        mask_rule="black" if post.inpainting_mask_invert else "white",
        fill=FILLS[post.inpainting_fill or 0],
        padding=_padding(post) if full else None,
    )


def _repainting(post: Img2ImgSent, card: ModelCard, warnings: list[JobWarning]) -> dict[str, Any]:
    """Return strength, and with a mask how it is blended."""
    strength = ONE_STEP if post.denoising_strength == 0 else post.denoising_strength
    if post.mask is None:
        edits = "image_guidance_scale" in card.fields  # clients send a scale whatever the model
        return {"strength": strength} | ({"image_guidance_scale": post.image_cfg_scale} if edits else {})
    if post.inpainting_fill == NOISE:
        if strength not in (None, 1.0):
            warnings.append(told("denoising_strength", "inpainting_fill 2 begins with noise: denoising_strength 1"))
        strength = 1.0
    return {"strength": strength, "mask_mode": "white", "feather": _feather(post)}


def _feather(post: Img2ImgSent) -> int:
    both = [blur for blur in (post.mask_blur_x, post.mask_blur_y) if blur is not None]
    return post.mask_blur if post.mask_blur is not None else max(both, default=MASK_BLUR)


def _region(post: Img2ImgSent, framed: Mapping[str, bytes]) -> Region | None:
    if "whole" not in framed:
        return None
    return Region(framed["whole"], framed["whole_mask"], _padding(post), _feather(post))


def _padding(post: Img2ImgSent) -> int:
    """Return how far a region reaches beyond its mask: as far as that is blended, too."""
    return (post.inpaint_full_res_padding or 0) + _feather(post)


async def _fields(gateway: Gateway, post: DrawingPost, kind: Kind) -> _Fields:
    """Translate what both have.

    Raises:
        InvalidRequest: no such sampler, scheduler, checkpoint or script; too many images.
        LatentdError: no model for the task.
    """
    _check(post)
    overrides = post.override_settings or {}
    model = find_model(await gateway.cards.all(), str(overrides[CHECKPOINT])) if overrides.get(CHECKPOINT) else None
    card = await gateway.cards.choose(kind, model)
    chosen = choose(post.sampler_name or post.sampler_index, post.scheduler, card)
    prompt = read_prompt(post.prompt or "", await gateway.loras.recent())
    skips = _skips(card)
    known = frozenset((CHECKPOINT, CLIP_SKIP) if skips else (CHECKPOINT,))
    warnings = [*ignored(post.extras), *ignored(overrides, known)]
    values = {
        "prompt": prompt.text,
        "negative_prompt": post.negative_prompt or None,
        "model": model,
        "seed": post.seed,
        "sampler": chosen.sampler,
        "schedule": chosen.schedule,
        "steps": post.steps,
        "guidance_scale": post.cfg_scale,
        "num_images": post.images,
        "eta": post.eta if _reads_eta(chosen.sampler, card) else None,
        "preview_every": PREVIEW_EVERY,
        "prompt_syntax": "weighted" if "prompt_syntax" in card.fields else None,
        "clip_skip": overrides.get(CLIP_SKIP) if skips else None,
        **prompt.fields,
    }
    return _Fields(card, values, warnings)


def _body(found: _Fields, kind: Kind, files: Mapping[str, bytes]) -> Body:
    """Make our body of what the model uses: clients send every field that they know, whatever the model."""
    for name in sorted(KINDS[kind].model_fields - set(found.card.fields)):
        if found.values.pop(name, None) not in (None, ""):
            found.warnings.append(told(name, f"{name} is of no use to model {found.card.id}; it was ignored"))
    return post_body(kind, found.values, files)


def _reads_eta(sampler: str | None, card: ModelCard) -> bool:
    return (sampler or card.defaults.sampler) in WITH_ETA


def _skips(card: ModelCard) -> bool:
    """Tell whether the web UI's option acts on a model: not on SDXL, whose layers it never moves."""
    return "clip_skip" in card.fields and "original_size" not in card.fields


def _check(post: DrawingPost) -> None:
    if post.images > MAX_IMAGES:
        detail = f"batch_size times n_iter is {post.images}; at most {MAX_IMAGES} images are made at once"
        raise InvalidRequest(detail, field="batch_size", value=post.images, bound=MAX_IMAGES)
    always = [name for name, asked in (post.alwayson_scripts or {}).items() if _asks(asked)]
    scripts = [post.script_name] if post.script_name else [name for name in always if name.lower() not in PAGE_SCRIPTS]
    if scripts:
        detail = f"script {scripts[0]!r} not found; there are none here"
        raise InvalidRequest(detail, field="script_name", value=scripts[0], bound="no script")


def _asks(script: Any) -> bool:
    """Tell whether a script is asked for anything: clients name some without arguments, or switched off.

    A script's switch is its first argument; of units, the `enabled` of each.
    """
    arguments = script.get("args") if isinstance(script, dict) else script
    if not isinstance(arguments, list):
        return bool(arguments)
    if arguments and arguments[0] is False:
        return False
    return any(each and (not isinstance(each, dict) or each.get("enabled", True)) for each in arguments)
