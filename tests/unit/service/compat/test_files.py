"""Answers that hold pictures are written beside other requests, not before them."""

from __future__ import annotations

import asyncio
import json
import time

from fastapi.responses import JSONResponse
from starlette.responses import Response

from service.compat.a1111.answers import ImagesAnswer
from service.compat.files import all_as_base64, json_of


def test_pictures_hold_up_nothing_while_they_are_written() -> None:
    held, files = [0.0], [bytes(4 << 20)] * 16

    async def look() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0)
            held.append(time.perf_counter() - began)

    async def write() -> Response:
        looking = asyncio.create_task(look())
        answer = ImagesAnswer(images=await all_as_base64(files), parameters={}, info="")
        try:
            return await json_of(answer, {})
        finally:
            looking.cancel()

    began = time.perf_counter()
    written = asyncio.run(write())
    took = time.perf_counter() - began
    assert max(held) < took / 4
    assert len(json.loads(bytes(written.body))["images"]) == 16


def test_an_answer_is_what_it_was_in_one_piece() -> None:
    answer = ImagesAnswer(images=["a", "b"], parameters={"prompt": 'ü"', "steps": None, "cfg": 7.5}, info="{}")
    written = asyncio.run(json_of(answer, {"X-One": "1"}))
    assert written.body == JSONResponse(answer.model_dump(mode="json")).body
    assert (written.headers["content-type"], written.headers["x-one"]) == ("application/json", "1")
