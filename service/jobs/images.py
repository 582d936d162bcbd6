"""Images, streamed from the object storage; those of finished jobs never change, and caches may keep them."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import obstore
import structlog
from fastapi.responses import RedirectResponse, Response, StreamingResponse
from obstore.store import S3Store
from redis.asyncio import Redis

from contract.job import TERMINAL, ImageInfo, Job, JobResult, StoredImage, parse_image_id
from contract.redis_keys import stored_field
from core.errors import Conflict, DamagedImage, Gone, JobFailed, NotFound, Problem
from core.storage import Store, image_path
from service.auth.access import Caller
from service.http.problems import shown
from service.jobs.views import read_hash
from service.requests.preferences import MEDIA_TYPES

if TYPE_CHECKING:
    from obstore import GetResult

CHUNK = 256 * 1024
PRESIGNED_S = 600
FOREVER = "private, max-age=31536000, immutable"
UNSETTLED = "private, no-cache"  # until its job ends another execution may put another image in its place

log = structlog.get_logger("service")


@dataclass(frozen=True, slots=True)
class LocatedImage:
    """An image, where it is stored, and whether it is the one that will stay."""

    info: ImageInfo
    path: str
    final: bool


def check_not_canceled(job: Job) -> None:
    """Check that a job that has ended may have images.

    Raises:
        Conflict: it was canceled.
    """
    if job.status == "canceled":
        raise Conflict(f"job {job.id} was canceled; there is no image", value=job.id)


def fault(job: Job) -> Problem | None:
    """Return the problem of a job that failed: deterministic faults answer as their status says, 500 or 504."""
    if job.status != "failed":
        return None
    return job.error or JobFailed(f"job {job.id} failed", value=job.id).problem()


async def find_image(redis: Redis, caller: Caller, image_id: str) -> LocatedImage:
    """Find an image, as soon as it is stored.

    Raises:
        NotFound: no such image, or it isn't there yet.
        Gone: its job expired or was purged.
    """
    parsed = parse_image_id(image_id)
    if parsed is None:
        raise NotFound(f"no image {shown(image_id)!r}", field="id", value=image_id)
    job_id, index = parsed
    values = await read_hash(redis, caller, job_id)
    stored = _stored(values, index)
    if stored is None:
        raise NotFound(f"job {job_id} has no image {index}; it is {values['status']}", field="id", value=image_id)
    path = image_path(job_id, stored.execution, index, stored.info.format)
    return LocatedImage(stored.info, path, final="result" in values)


def _stored(values: Mapping[str, str], index: int) -> StoredImage | None:
    """Read the image that the job's result names; before the job's end, the one that was stored last."""
    if "result" in values:
        result = JobResult.read(values["result"])
        images = result.images
        return StoredImage(execution=result.execution, info=images[index]) if index < len(images) else None
    field = stored_field(index)
    early = field in values and values["status"] not in TERMINAL
    return StoredImage.read(values[field]) if early else None


async def picture_response(
    redis: Redis,
    store: Store,
    caller: Caller,
    image_id: str,
    if_none_match: str | None,
    download: bool,
    headers: Mapping[str, str],
) -> Response:
    """Answer the bytes, or 304 where the client has them.

    What is stored is checked against the digest that the worker told. Of a large file that turns out wrong behind its
    first bytes the end is never sent, so that no client takes it for whole.

    Raises:
        NotFound, Gone: as `find_image`.
        DamagedImage: the file isn't the one that the worker put there.
    """
    found = await find_image(redis, caller, image_id)
    info, tag = found.info, f'"{found.info.sha256}"'
    kept = {"ETag": tag, "Cache-Control": FOREVER if found.final else UNSETTLED, **headers}
    if if_none_match is not None and _matches(if_none_match, tag):
        return Response(status_code=304, headers=kept)
    if download:  # a presigned URL can't name the file
        kept["Content-Disposition"] = f'attachment; filename="{image_id}.{info.format}"'
    stored = await _open(store, found)
    if info.bytes <= CHUNK:
        data = b"".join([chunk async for chunk in _checked(stored, info)])
        return Response(data, media_type=MEDIA_TYPES[info.format], headers=kept)
    kept["Content-Length"] = str(info.bytes)
    return StreamingResponse(_checked(stored, info), media_type=MEDIA_TYPES[info.format], headers=kept)


async def read_image(redis: Redis, store: Store, caller: Caller, image_id: str) -> bytes:
    """Read a whole image. Raises as `picture_response`."""
    found = await find_image(redis, caller, image_id)
    return b"".join([chunk async for chunk in _checked(await _open(store, found), found.info)])


async def _open(store: Store, found: LocatedImage) -> GetResult:
    """Begin to read a file that is as long as it was told."""
    info = found.info
    try:
        stored = await store.get_async(found.path)
    except FileNotFoundError as error:
        raise Gone(f"the file of image {info.id} is gone", field="id", value=info.id) from error
    if stored.meta["size"] != info.bytes:
        raise _damaged(info, f"{stored.meta['size']} bytes", f"{info.bytes} bytes")
    return stored


async def redirect(public: S3Store, redis: Redis, caller: Caller, image_id: str) -> Response:
    """Answer 307 to a presigned URL of the storage; clients may keep that of a final image for half of its life.

    Raises as `find_image`.
    """
    found = await find_image(redis, caller, image_id)
    url = await obstore.sign_async(public, "GET", found.path, timedelta(seconds=PRESIGNED_S))  # may fetch credentials
    kept = f"private, max-age={PRESIGNED_S // 2}" if found.final else UNSETTLED
    return RedirectResponse(url, 307, {"Cache-Control": kept})


def _matches(header: str, tag: str) -> bool:
    return header.strip() == "*" or tag in (each.strip().removeprefix("W/") for each in header.split(","))


async def _checked(stored: GetResult, info: ImageInfo) -> AsyncIterator[bytes]:
    """Yield the file; its last piece only once the digest of all is right."""
    digest, last = hashlib.sha256(), b""
    async for chunk in stored.stream(min_chunk_size=CHUNK):
        if last:
            yield last
        last = bytes(chunk)
        digest.update(last)
    if digest.hexdigest() != info.sha256:
        raise _damaged(info, f"sha256 {digest.hexdigest()}", f"sha256 {info.sha256}")
    yield last


def _damaged(info: ImageInfo, found: str, told: str) -> DamagedImage:
    log.error("a stored image is damaged", image=info.id, found=found, told=told)
    return DamagedImage(f"the stored file of image {info.id} is damaged", field="id", value=info.id, bound=told)
