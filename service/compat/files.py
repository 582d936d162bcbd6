"""Pictures that this service made, as other APIs answer them: whole, as base64, in another format."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image
from pydantic import BaseModel
from starlette.responses import Response

from contract.common import OutputFormat
from contract.events import Preview
from contract.job import Job
from service.auth.access import Caller
from service.jobs.images import read_image
from service.state import Gateway


async def read_images(gateway: Gateway, caller: Caller, job: Job) -> list[bytes]:
    """Read all images of a job. Raises as `read_image`."""
    return [await read_image(gateway.redis, gateway.store, caller, image.id) for image in job.images]


def opened(preview: Preview) -> Image.Image:
    """Open a preview's picture."""
    return Image.open(io.BytesIO(base64.b64decode(preview.image)), formats=("WEBP",)).convert("RGB")


def written(picture: Image.Image, output_format: OutputFormat) -> bytes:
    """Write a picture for a moment's look."""
    data = io.BytesIO()
    picture.save(data, output_format.upper())
    return data.getvalue()


def as_base64(data: bytes) -> str:
    """Write bytes as base64."""
    return base64.b64encode(data).decode()


async def all_as_base64(files: Sequence[bytes]) -> list[str]:
    """Write each as base64, in a thread."""
    return await asyncio.to_thread(lambda: [as_base64(file) for file in files])


async def json_of(answer: BaseModel, headers: Mapping[str, str], *, exclude_none: bool = False) -> Response:
    """Answer a model that holds pictures, written in a thread."""
    data = await asyncio.to_thread(_json, answer.model_dump(mode="json", exclude_none=exclude_none))
    return Response(data, headers=headers, media_type="application/json")


def _json(data: dict[str, Any]) -> bytes:
    """Write JSON piece by piece: in one piece no other thread runs until the last picture is written."""
    encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return b"".join(piece.encode() for piece in encoder.iterencode(data))
