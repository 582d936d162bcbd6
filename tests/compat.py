"""What tests of other APIs' calls share: the job that a call waits for, and pictures as previews are sent."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image
from redis import Redis

from contract.redis_keys import attended_key
from tests.waits import within


def job_made(redis: Redis, owner: str = "") -> str:
    """The id of the job that a call waits for, as soon as there is one."""
    return str(within(lambda: next(iter(listed(redis, attended_key(owner))), "")))


def listed(redis: Redis, key: str) -> list[str]:
    """The ids of a sorted set."""
    ids: Any = redis.zrange(key, 0, -1)
    return [each.decode() for each in ids]


def webp(colour: str) -> str:
    return base64.b64encode(webp_of(Image.new("RGB", (40, 30), colour))).decode()


def webp_of(picture: Image.Image) -> bytes:
    data = io.BytesIO()
    picture.save(data, "WEBP", lossless=True)
    return data.getvalue()
