"""Pictures that this service made, as other APIs answer them: whole, as base64, in another format."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from typing import NamedTuple

from PIL import Image

from contract.common import OutputFormat
from contract.job import Job
from contract.redis_keys import preview_key
from service.auth.access import Caller
from service.jobs.images import read_image
from service.state import Gateway


class Preview(NamedTuple):
    """What an image looked like at a step."""

    step: int
    data: bytes


async def read_images(gateway: Gateway, caller: Caller, job: Job) -> list[bytes]:
    """Read all images of a job. Raises as `read_image`."""
    return [await read_image(gateway.redis, gateway.store, caller, image.id) for image in job.images]


async def read_preview(gateway: Gateway, job_id: str, output_format: OutputFormat) -> Preview | None:
    """Read a job's latest preview, in a format that clients expect."""
    text = await gateway.redis.get(preview_key(job_id))
    if not text:
        return None
    told = json.loads(text)
    return Preview(told["step"], await asyncio.to_thread(_recoded, base64.b64decode(told["image"]), output_format))


def _recoded(webp: bytes, output_format: OutputFormat) -> bytes:
    if output_format == "webp":
        return webp
    data = io.BytesIO()
    Image.open(io.BytesIO(webp)).convert("RGB").save(data, output_format.upper())
    return data.getvalue()


def as_text(data: bytes) -> str:
    """Write bytes as base64."""
    return base64.b64encode(data).decode()
