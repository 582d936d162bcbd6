"""Pictures that this service made, as other APIs answer them: whole, as base64, in another format."""

from __future__ import annotations

import base64
import io

from PIL import Image

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
