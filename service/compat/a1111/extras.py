"""extra-single-image and extra-batch-images: pictures made larger by a model of ours, or resized."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from core.errors import Problem
from core.reframing import Fit, Framing, check_fitted, scaled
from service.compat.a1111.catalog import PLAIN_UPSCALERS, find_upscaler
from service.compat.a1111.pictures import resized, size_of
from service.compat.a1111.posts import ExtrasPost
from service.compat.attended import Session, attend
from service.compat.fields import decoded, post_body
from service.compat.files import read_images
from service.jobs.images import check_not_canceled, fault
from service.requests.decoders import DECODERS
from service.requests.decoding import Reading

FACTOR, SIDE = 2.0, 512
COPIES = 4  # of an answer's picture: as it is, as base64, in JSON and in its pieces


class _Failed(Exception):
    """A job failed; what is told of it is its problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


async def enlarged(
    session: Session, post: ExtrasPost, pictures: Sequence[str], hold: Callable[[int], None]
) -> list[bytes] | Problem:
    """Enlarge pictures, all at once; if one can't be the others end, and its job's problem is returned.

    `hold` counts what is made of them here: small files may be large pictures, and no job is paid for.

    Raises:
        LatentdError: as our own endpoint refuses them; the gateway holds too much.
        Conflict: a job was canceled.
    """
    upscaler = find_upscaler(await session.gateway.cards.all(), post.upscaler_1)
    files = [await decoded("image", picture) for picture in pictures]
    turns = asyncio.Semaphore(DECODERS)  # a call that waited for its own pictures would be told that all are busy
    tasks = [asyncio.ensure_future(_one(session, post, upscaler, file, turns, hold)) for file in files]
    try:
        return await asyncio.gather(*tasks)
    except _Failed as failed:
        return failed.problem
    finally:
        for task in tasks:
            task.cancel()


async def _one(
    session: Session,
    post: ExtrasPost,
    upscaler: str,
    file: bytes,
    turns: asyncio.Semaphore,
    hold: Callable[[int], None],
) -> bytes:
    plain = upscaler in PLAIN_UPSCALERS
    async with turns:
        upload = await _resized(session, _frame(post, upscaler) if plain else Framing(), file)
    if plain:
        hold(COPIES * len(upload))
        return upload
    sides = size_of(upload)
    size, field = _size(post, sides), "upscaling_resize_w" if post.resize_mode else "upscaling_resize"
    check_fitted(sides, size, _fit(post), session.gateway.settings.max_pixels, field)
    job = await attend(session, post_body("upscale", {"model": upscaler}, {"image": upload}))
    if (problem := fault(job)) is not None:
        raise _Failed(problem)
    check_not_canceled(job)
    made = (await read_images(session.gateway, session.caller, job))[0]
    return await asyncio.to_thread(resized, made, size, _fit(post))


async def _resized(session: Session, frame: Framing, file: bytes) -> bytes:
    reading = Reading(how="framed", max_pixels=session.gateway.settings.max_pixels, frame=frame)
    return (await session.gateway.decoders.decode({"image": file}, reading)).data["image"]


def _frame(post: ExtrasPost, upscaler: str) -> Framing:
    """Return what plain resizing does: None leaves a picture as it is."""
    if upscaler == "None":
        return Framing()
    nearest = upscaler == "Nearest"
    if post.resize_mode:
        return Framing(size=_sides(post), fit=_fit(post), nearest=nearest)
    return Framing(scale=post.upscaling_resize or FACTOR, nearest=nearest)


def _size(post: ExtrasPost, size: tuple[int, int]) -> tuple[int, int]:
    return _sides(post) if post.resize_mode else scaled(size, post.upscaling_resize or FACTOR)


def _sides(post: ExtrasPost) -> tuple[int, int]:
    return post.upscaling_resize_w or SIDE, post.upscaling_resize_h or SIDE


def _fit(post: ExtrasPost) -> Fit:
    """Return how a size of another shape is met: cut to it, or as the larger side asks."""
    if not post.resize_mode:
        return "stretch"
    return "crop" if post.upscaling_crop is None or post.upscaling_crop else "cover"
