"""What a gateway does beside its requests ends with it."""

from __future__ import annotations

import asyncio

import pytest

from service import app


def test_work_that_takes_no_notice_of_a_cancellation_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "CANCEL_S", 0.01)
    lost = 0

    async def work() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if lost == 2:
                    raise
                lost += 1

    async def run() -> None:
        async with asyncio.timeout(30), app.background(work()):
            await asyncio.sleep(0)

    asyncio.run(run())
    assert lost == 2
