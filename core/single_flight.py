"""Questions to Redis and folders that many requests ask at once, asked once."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Who asks while the question is under way, or within `kept_s` of its answer, gets the same answer."""

    def __init__(self, ask: Callable[[], Coroutine[Any, Any, T]], kept_s: float = 0.0) -> None:
        self._ask = ask
        self._kept_s = kept_s
        self._kept_until = -math.inf
        self._asking: asyncio.Task[T] | None = None

    async def answer(self) -> T:
        """Answer, or raise, as the question does. A caller that leaves doesn't take the answer from the others."""
        if self._asking is None or (self._asking.done() and time.monotonic() >= self._kept_until):
            self._asking = asyncio.create_task(self._ask_anew())
        return await asyncio.shield(self._asking)

    async def _ask_anew(self) -> T:
        answer = await self._ask()
        self._kept_until = time.monotonic() + self._kept_s
        return answer
