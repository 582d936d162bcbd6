"""A post and a model card → the resolved request: defaults of the model, refusals of what it can't do, warnings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contract.card import ModelCard
from contract.job import JobWarning
from contract.request import REQUESTS, JobRequest, OutputFormat, parse_request
from core.errors import InvalidRequest
from service.requests.bodies import Body
from service.requests.labels import check_below, class_of
from service.requests.posts import Class2ImgPost, Guided, Img2ImgPost, InpaintPost, Prompted, Sized, UpscalePost
from service.requests.tokens import count_tokens
from service.requests.uploads import Pictures

# Fields that a model may lack; all others concern the job.
MODEL_FIELDS = frozenset(
    {"prompt", "negative_prompt", "guidance_scale", "width", "height", "steps", "sampler", "eta", "strength"}
    | {"class_id", "label", "noise_level"}
)
ETA_SAMPLERS = ("ddim",)
# Longest side that the file formats hold.
MAX_SIDE: dict[OutputFormat, int] = {"png": 2**31 - 1, "jpeg": 65_535, "webp": 16_383}


def resolve(
    body: Body, card: ModelCard, pictures: Pictures, seed: int, output_format: OutputFormat, max_pixels: int
) -> JobRequest:
    """Fill in every parameter.

    Raises:
        InvalidRequest: a field, sampler or size that the model, the format or the service can't do.
    """
    _check_fields(body, card)
    width, height = _size(body, card, pictures)
    _check_size(body, width, height, max_pixels)
    _check_side(width, height, output_format)
    post, defaults = body.post, card.defaults
    sampler = _sampler(post.sampler, card)
    values: dict[str, Any] = {
        "kind": body.kind,
        "model": card.id,
        "width": width,
        "height": height,
        "steps": post.steps or defaults.steps,
        "sampler": sampler,
        "eta": _eta(post.eta, sampler, card),
        "seed": seed,
        "output_format": output_format,
        "num_images": post.num_images,
        "priority": post.priority,
        "deadline_ms": post.deadline_ms,
        "determinism": post.determinism,
        "preview_every": post.preview_every,
        "webhook_url": post.webhook_url,
    }
    values |= _guided(body, card) | _painted(body, card) | _labelled(body, card) | dict(pictures.uploads)
    return parse_request({name: value for name, value in values.items() if name in REQUESTS[body.kind].model_fields})


def _check_fields(body: Body, card: ModelCard) -> None:
    sent = body.post.model_dump(exclude_unset=True, exclude_none=True)
    for field in sorted(MODEL_FIELDS & sent.keys() - set(card.fields)):
        raise InvalidRequest(
            f"{field} is of no use to model {card.id}, which uses {', '.join(card.fields)}",
            field=field,
            value=sent[field],
            bound=list(card.fields),
        )


def _size(body: Body, card: ModelCard, pictures: Pictures) -> tuple[int, int]:
    if isinstance(body.post, Sized):
        return body.post.width or card.native_size, body.post.height or card.native_size
    if pictures.size is None:
        raise InvalidRequest("image is required", field="image", bound="a PNG, JPEG or WebP file")
    scale = card.scale if body.kind == "upscale" else 1
    return pictures.size[0] * scale, pictures.size[1] * scale


def _check_size(body: Body, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        field = "image" if body.files else "width" if width >= height else "height"
        raise InvalidRequest(
            f"{field} makes an answer of {width}×{height} pixels; at most {max_pixels} are made",
            field=field,
            value=f"{width}×{height}",
            bound=max_pixels,
        )


def _check_side(width: int, height: int, output_format: OutputFormat) -> None:
    bound = MAX_SIDE[output_format]
    if max(width, height) > bound:
        raise InvalidRequest(
            f"output_format {output_format} holds at most {bound} pixels a side; the answer has {width}×{height}",
            field="output_format",
            value=output_format,
            bound=bound,
        )


def _sampler(name: str | None, card: ModelCard) -> str:
    sampler = card.defaults.sampler if name is None else name
    if sampler not in card.samplers:
        can = ", ".join(card.samplers)
        raise InvalidRequest(
            f"model {card.id} can't run sampler {sampler!r}; it runs {can}",
            field="sampler",
            value=sampler,
            bound=list(card.samplers),
        )
    return sampler


def _eta(sent: float | None, sampler: str, card: ModelCard) -> float:
    if sampler in ETA_SAMPLERS:
        return card.defaults.eta if sent is None else sent
    if sent:
        can = ", ".join(ETA_SAMPLERS)
        raise InvalidRequest(
            f"eta is of no use to sampler {sampler}; {can} uses it", field="eta", value=sent, bound=can
        )
    return 0.0


def _guided(body: Body, card: ModelCard) -> dict[str, Any]:
    post = body.post
    if not isinstance(post, Guided):
        return {}
    default = card.defaults.guidance_scale if "guidance_scale" in card.fields else 1.0
    values: dict[str, Any] = {"guidance_scale": default if post.guidance_scale is None else post.guidance_scale}
    if isinstance(post, Prompted):
        values |= {"prompt": post.prompt, "negative_prompt": post.negative_prompt or ""}
    return values


def _painted(body: Body, card: ModelCard) -> dict[str, Any]:
    post = body.post
    if isinstance(post, Img2ImgPost):
        return {"strength": card.defaults.img2img_strength if post.strength is None else post.strength}
    if not isinstance(post, InpaintPost):
        return {}
    strength = card.defaults.strength if post.strength is None else post.strength
    return {"mask_mode": post.mask_mode, "feather": post.feather, "strength": strength}


def _labelled(body: Body, card: ModelCard) -> dict[str, Any]:
    post = body.post
    if isinstance(post, Class2ImgPost):
        return {"class_id": class_of(post, card)}
    if not isinstance(post, UpscalePost):
        return {}
    level = card.defaults.noise_level if post.noise_level is None else post.noise_level
    check_below("noise_level", level, card.noise_levels, card)
    return {"noise_level": level}


def warnings_of(request: JobRequest, card: ModelCard, folder: Path | None) -> tuple[JobWarning, ...]:
    """What the model won't read or use, quoted."""
    texts: Mapping[str, str] = {"prompt": request.text, "negative_prompt": request.negative_text}
    found = []
    for field, text in texts.items():
        cut = count_tokens(card, folder, text).cut if text else None
        if cut is not None:
            message = f"{field} is longer than the model's {card.token_window} tokens; cut: “{cut}”"
            found.append(JobWarning(field=field, message=message))
    if request.negative_text and not request.guided:
        message = "negative_prompt has no effect at guidance_scale 1"
        found.append(JobWarning(field="negative_prompt", message=message))
    return tuple(found)
