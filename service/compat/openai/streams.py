"""OpenAI's event stream: partial images out of our previews, then the finished ones."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from starlette.requests import ClientDisconnect

from contract.common import OutputFormat
from contract.events import Preview
from contract.job import Job
from core.errors import Problem
from service.auth.access import still_accepted
from service.compat.attended import Session, attended, finished
from service.compat.files import as_base64, opened, read_images, written
from service.compat.openai.answers import ImageEvent, envelope
from service.compat.openai.draw import Drawing, size_of, usage
from service.http.handlers import ANSWERED, as_ours
from service.jobs.events import CHECK_S, COMMENT_S, StopSignals, follow, read_previews
from service.jobs.images import check_not_canceled, fault
from service.jobs.streams import on_one_line


@dataclass(slots=True)
class _Partials:
    """Which previews were sent."""

    wanted: int
    sent: int = 0
    step: int = 0


async def server_sent(session: Session, drawing: Drawing, made: Callable[[Job], None]) -> AsyncIterator[bytes]:
    """Make the job, tell so (`made`, and a comment), then write its events; the last one is its end, whatever that is.

    A client that leaves ends the job, and so does the end of its key.

    Raises:
        LatentdError: before the first piece, as `submit`.
    """
    async with attended(session, drawing.body, drawing.post.output_format or "png") as job:
        made(job)
        yield b": accepted\n\n"
        try:
            async for piece in _while_accepted(session, _events(session, drawing, job)):
                yield piece
        except ANSWERED as error:
            ours = await as_ours(session.gateway, error, "POST", made=True)
            yield wire_error(ours.problem())
        except ClientDisconnect:
            return


async def _while_accepted(session: Session, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Pass pieces on while the caller's key is accepted, with a comment after each COMMENT_S of silence.

    Proxies close a stream that says nothing.
    """
    coming, spoken = asyncio.ensure_future(anext(pieces, b"")), time.monotonic()
    try:
        while True:
            done, _ = await asyncio.wait((coming,), timeout=min(COMMENT_S, CHECK_S))
            if not await still_accepted(session.gateway.redis, session.caller):
                return
            if done and not coming.result():
                return
            if done:
                yield coming.result()
                coming = asyncio.ensure_future(anext(pieces, b""))
            elif time.monotonic() - spoken >= COMMENT_S:
                yield b": still here\n\n"
            else:
                continue
            spoken = time.monotonic()
    finally:
        coming.cancel()
        coming.add_done_callback(_forget)


def _forget(piece: asyncio.Future[bytes]) -> None:
    """Take the end of a piece that nobody waits for: asyncio would log as an error that its client has left."""
    if not piece.cancelled():
        piece.exception()


async def _events(session: Session, drawing: Drawing, job: Job) -> AsyncIterator[bytes]:
    name, began = "image_edit" if drawing.edit else "image_generation", time.monotonic()
    async for event in _partial_images(session, drawing, job, name):
        yield wire(event)
    ended = await finished(session, job.id, time.monotonic() - began)
    problem = fault(ended)
    if problem is not None:
        yield wire_error(problem)
        return
    check_not_canceled(ended)
    for file in await read_images(session.gateway, session.caller, ended):
        yield wire(await _completed(session, ended, name, file))


async def _partial_images(session: Session, drawing: Drawing, job: Job, name: str) -> AsyncIterator[ImageEvent]:
    """Follow the job while partial images are wanted."""
    gateway, partials = session.gateway, _Partials(drawing.post.partial_images or 0)
    until = time.monotonic() + gateway.settings.compat_wait_s
    async for events in follow(gateway.redis, job.id, "0-0", StopSignals(gateway.waiters, gateway.stopping)):
        if partials.sent >= partials.wanted or time.monotonic() > until or await session.left():
            return
        if any(kind == "step" for _, kind, _ in events):
            preview = (await read_previews(gateway.redis, job.id)).get(0)  # these events don't say of which picture
            if preview is not None and preview.step > partials.step:
                data = await asyncio.to_thread(_recoded, preview, job.request.output_format)
                yield _event(job, f"{name}.partial_image", data, job.request.output_format, partials.sent)
                partials.sent, partials.step = partials.sent + 1, preview.step


def _recoded(preview: Preview, output_format: OutputFormat) -> bytes:
    return base64.b64decode(preview.image) if output_format == "webp" else written(opened(preview), output_format)


async def _completed(session: Session, job: Job, name: str, file: bytes) -> ImageEvent:
    event = _event(job, f"{name}.completed", file, job.request.output_format)
    return event.model_copy(update={"usage": await usage(session.gateway, job)})


def _event(job: Job, kind: str, file: bytes, output_format: OutputFormat, index: int | None = None) -> ImageEvent:
    return ImageEvent(
        type=kind,
        b64_json=as_base64(file),
        created_at=int(job.created_at.timestamp()),
        output_format=output_format,
        size=size_of(job),
        partial_image_index=index,
    )


def wire(event: ImageEvent) -> bytes:
    """Write one event."""
    return f"event: {event.type}\ndata: {event.model_dump_json()}\n\n".encode()


def wire_error(problem: Problem) -> bytes:
    """Write the event of a failure."""
    return f"event: error\ndata: {on_one_line(envelope(problem).model_dump_json())}\n\n".encode()
