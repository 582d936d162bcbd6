"""OpenAI's requests as jobs of ours, and the images of those as OpenAI's answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from pydantic import ValidationError

from contract.base import Kind
from contract.job import Job, JobWarning
from core.errors import InvalidRequest, UnsupportedMedia
from core.reframing import Framing
from service.compat.attended import Session
from service.compat.fields import post_body
from service.compat.files import all_as_base64, read_images
from service.compat.openai.answers import ImagesAnswer, OpenAIImage, Usage, usage_of
from service.compat.openai.posts import EditPost, GenerationPost
from service.http.origins import OriginPolicy
from service.http.problems import invalid, shown
from service.requests.bodies import Body, media_type, whole
from service.requests.decoding import Reading
from service.requests.forms import Part, read_form
from service.requests.tokens import count_tokens
from service.state import Gateway

FILES = ("image", "image[]", "mask")


@dataclass(frozen=True, slots=True)
class Drawing:
    """A request of OpenAI's, translated."""

    post: GenerationPost
    body: Body
    edit: bool
    warnings: tuple[JobWarning, ...]


async def generation(gateway: Gateway, post: GenerationPost) -> Drawing:
    """Translate text to image. Raises LatentdError as our own endpoint refuses it."""
    fields = post.drawing()
    if post.sides is not None:
        fields["width"], fields["height"] = post.sides
    fields["preview_every"] = await _preview_every(gateway, post, "txt2img", None)
    return Drawing(post, post_body("txt2img", fields, {}), False, tuple(post.warnings()))


async def edit(gateway: Gateway, post: EditPost, files: Mapping[str, bytes]) -> Drawing:
    """Translate a picture with its mask: transparent pixels of the mask, or of the picture itself, are repainted.

    Without any transparency the whole picture is drawn over.

    Raises:
        LatentdError: as our own endpoint refuses it.
    """
    frame = Framing(size=post.sides, fit="crop", mask_rule="transparent", own_alpha=True)
    reading = Reading(how="framed", max_pixels=gateway.settings.max_pixels, frame=frame)
    framed = (await gateway.decoders.decode(files, reading)).data
    kind: Kind = "inpaint" if "mask" in framed else "img2img"
    fields = {**post.drawing(), "strength": post.strength}
    fields["preview_every"] = await _preview_every(gateway, post, kind, post.strength)
    return Drawing(post, post_body(kind, fields, framed), True, tuple(post.warnings()))


async def _preview_every(gateway: Gateway, post: GenerationPost, kind: Kind, strength: float | None) -> int | None:
    """Return between how many steps a preview is made, so that as many partial images come as were asked for."""
    if not (post.stream and post.partial_images):
        return None
    defaults = (await gateway.cards.choose(kind, post.own_model)).defaults
    share = 1.0 if kind == "txt2img" else defaults.strength_of(kind) if strength is None else strength
    run = max(1, int((post.steps or defaults.steps) * share))  # a strength < 1 leaves the last ones
    return max(1, run // (post.partial_images + 1))


async def read_edit(request: Request) -> tuple[EditPost, dict[str, bytes]]:
    """Read the form of an edit.

    Raises:
        UnsupportedMedia, MalformedRequest, InvalidRequest, BodyTooLarge: it is none.
    """
    parts = await _read_parts(request)
    _check_once(parts, FILES[:2])
    files = {part.name.removesuffix("[]"): part.data for part in parts if part.name in FILES and part.is_file}
    pictures = [part for part in parts if part.name in FILES[:2] and part.is_file]
    if len(pictures) != 1:
        raise InvalidRequest(
            f"{len(pictures)} images were sent; one is edited", field="image", value=len(pictures), bound="1 file"
        )
    return _edit_post([part for part in parts if not (part.name in FILES and part.is_file)]), files


async def _read_parts(request: Request) -> list[Part]:
    """Read a multipart form.

    Raises:
        UnsupportedMedia, MalformedRequest, BodyTooLarge: it is none.
    """
    media, bound = media_type(request), "multipart/form-data"
    if media != bound:
        raise UnsupportedMedia(f"Content-Type is {shown(media)!r}", field="Content-Type", value=media, bound=bound)
    return await asyncio.to_thread(read_form, request.headers["content-type"], await whole(request))


def _check_once(parts: Iterable[Part], names: Iterable[str]) -> None:
    """Check that no part but those of `names` is there twice.

    Raises:
        InvalidRequest: one is.
    """
    seen: set[str] = set()
    for part in parts:
        if part.name in seen and part.name not in names:
            raise InvalidRequest(f"{part.name} is there twice", field=part.name, bound="once")
        seen.add(part.name)


def _edit_post(parts: list[Part]) -> EditPost:
    fields: dict[str, Any] = {part.name: part.text for part in parts}
    try:
        return EditPost.model_validate_strings(fields)
    except ValidationError as error:
        raise invalid(error, EditPost) from error


async def answer(session: Session, request: Request, drawing: Drawing, job: Job) -> ImagesAnswer:
    """Write the images of a job that succeeded. Raises as `read_images`."""
    gateway = session.gateway
    if drawing.post.base64:
        files = await read_images(gateway, session.caller, job)
        data = [OpenAIImage(b64_json=written) for written in await all_as_base64(files)]
    else:
        origin = OriginPolicy(gateway.settings).own(request.scope, request.headers)
        data = [OpenAIImage(url=f"{origin}{image.url}") for image in job.images]
    return ImagesAnswer(
        created=int(job.created_at.timestamp()),
        data=data,
        output_format=job.request.output_format,
        size=size_of(job),
        usage=await usage(gateway, job),
    )


def size_of(job: Job) -> str:
    """Write the size of a job's images."""
    return f"{job.request.width}x{job.request.height}"


async def usage(gateway: Gateway, job: Job) -> Usage:
    """Count the prompt's tokens."""
    card = await gateway.cards.choose(job.kind, job.request.model)
    return usage_of(count_tokens(card, await gateway.cards.folder(card.id), job.request.text).count or 0)


def warnings_of(drawing: Drawing, job: Job) -> tuple[JobWarning, ...]:
    """Collect what the client is told: what was ignored, and what the job warns of."""
    return (*drawing.warnings, *job.warnings)
