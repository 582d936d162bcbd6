"""Uploaded pictures: decoded before anything is stored or enqueued; what was decoded is stored beside the job."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from obstore.exceptions import BaseError
from redis.asyncio import Redis

from contract.card import ModelCard
from contract.job import JobWarning
from contract.redis_keys import DEPLOYMENT_KEY
from contract.uploads import Upload
from core.errors import DiskFull, Unavailable
from core.pictures import ANY_CLASS
from core.settings import Settings
from core.single_flight import SingleFlight
from core.storage import DEPLOYMENT_OBJECT, Store, delete, lacks_room, may_be_unmounted, upload_path
from service.requests.bodies import Body
from service.requests.decoders import Decoders
from service.requests.decoding import Encoded, Reading, decode, encode
from service.requests.posts import InpaintPost

ROOM_S = 1.0  # that a folder has to say how much is free


@dataclass(frozen=True, slots=True)
class Pictures:
    """The uploads of one request, and what is stored of them."""

    uploads: Mapping[str, Upload]
    data: Mapping[str, bytes]
    warnings: tuple[JobWarning, ...] = ()

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height of the image after EXIF rotation."""
        image = self.uploads.get("image")
        return None if image is None else (image.width, image.height)


async def check_pictures(body: Body, card: ModelCard, job_id: str, max_pixels: int, decoders: Decoders) -> Pictures:
    """Decode the files of `body` in another process.

    Raises:
        InvalidRequest: unreadable or oversized files, or such that take too long; a mask that is empty, ambiguous or
            of another shape; a label map with a class that the model hasn't.
    """
    if not body.files:
        return Pictures({}, {})
    encoded = await decoders.decode(body.files, _reading(body, card, max_pixels))
    return await asyncio.to_thread(_pictures, body, job_id, encoded)


def read_pictures(body: Body, card: ModelCard, job_id: str, max_pixels: int) -> Pictures:
    """Do as `check_pictures`, in this process: the serverless commands read their files by the same rules."""
    return _pictures(body, job_id, encode(decode(body.files, _reading(body, card, max_pixels))))


def _reading(body: Body, card: ModelCard, max_pixels: int) -> Reading:
    mode = body.post.mask_mode if isinstance(body.post, InpaintPost) else "white"
    classes = card.map_classes or ANY_CLASS
    return Reading(how=body.task.decode, max_pixels=max_pixels, mask_mode=mode, classes=classes)


def _pictures(body: Body, job_id: str, encoded: Encoded) -> Pictures:
    uploads = {name: _upload(job_id, name, data, encoded.sizes[name]) for name, data in body.files.items()}
    return Pictures(uploads, encoded.data, encoded.warnings)


def _upload(job_id: str, name: str, data: bytes, size: tuple[int, int]) -> Upload:
    digest = hashlib.sha256(data).hexdigest()
    return Upload(path=upload_path(job_id, name, digest), sha256=digest, bytes=len(data), width=size[0], height=size[1])


async def check_disk_space(room: SingleFlight[int | None], min_free_mb: int) -> None:
    """Check that the storage has space for more; `room` asks it for the MiB that are free.

    Raises:
        DiskFull: less than `min_free_mb` MiB are free.
    """
    try:
        async with asyncio.timeout(ROOM_S):
            found = await room.answer()
    except OSError:  # or silence: while a storage is away jobs wait for it, and uploads are refused
        return
    if found is not None and found < min_free_mb:
        detail = f"the storage's disk has {found} MiB free; LATENTD_MIN_FREE_MB asks for {min_free_mb}"
        raise DiskFull(detail, value=found, bound=min_free_mb)


async def check_mounted(redis: Redis, settings: Settings, store: Store) -> None:
    """Check that a folder of LATENTD_STORAGE_URL isn't a mount point without its mount, which would lose an upload.

    Raises:
        Unavailable: it has lost the id that it shares with Redis, or doesn't answer.
        RedisError: Redis is away.
    """
    if not may_be_unmounted(settings.storage_url, store):
        return
    try:
        await store.head_async(DEPLOYMENT_OBJECT)
    except FileNotFoundError as error:
        if await redis.exists(DEPLOYMENT_KEY):
            raise Unavailable("the storage's folder has lost its id, as a mount point without its mount") from error
    except (OSError, BaseError) as error:
        raise Unavailable("the object storage doesn't answer") from error


async def store_pictures(store: Store, pictures: Pictures) -> None:
    """Put the files where their uploads say.

    Raises:
        DiskFull, Unavailable: the storage doesn't take them.
    """
    for name, upload in pictures.uploads.items():
        try:
            await store.put_async(upload.path, pictures.data[name])
        except (OSError, BaseError) as error:
            if await asyncio.to_thread(lacks_room, store, len(pictures.data[name])):
                raise DiskFull("no room for the upload on the storage's disk", field=name) from error
            raise Unavailable("the object storage doesn't take the upload", field=name) from error


async def discard_pictures(store: Store, pictures: Pictures) -> None:
    """Delete the files of a job that wasn't made; a storage that doesn't answer keeps them until the next sweep."""
    if pictures.uploads:
        with suppress(OSError, BaseError):
            await asyncio.to_thread(delete, store, [upload.path for upload in pictures.uploads.values()])
