"""Uploads, and the room that there is for more."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from core.errors import DiskFull
from core.single_flight import SingleFlight
from service.requests.uploads import check_disk_space


async def silent() -> int | None:
    await asyncio.Event().wait()
    return 0


async def stale() -> int | None:
    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))


async def full() -> int | None:
    return 1


def check(asks: Callable[[], Coroutine[Any, Any, int | None]]) -> None:
    async def checked() -> None:
        await check_disk_space(SingleFlight(asks), 2)

    asyncio.run(checked())


@pytest.mark.parametrize("asks", [silent, stale])
def test_a_folder_that_is_away_refuses_no_job(asks: Callable[[], Coroutine[Any, Any, int | None]]) -> None:
    check(asks)


def test_a_full_one_does() -> None:
    with pytest.raises(DiskFull, match="has 1 MiB free; LATENTD_MIN_FREE_MB asks for 2"):
        check(full)
