"""Processes that decode uploads: what they answer, and what becomes of one that dies or takes too long."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from PIL import Image

from core.errors import DecodersBusy, InvalidRequest
from service.requests import decoders
from service.requests.decoders import Decoder, Decoders, read_message, write_message
from service.requests.decoding import Encoded, Reading
from tests.gateway import mask, png
from tests.hostile_pictures import chunk, png_of

PICTURE = Reading(how="picture", max_pixels=10_000)


@asynccontextmanager
async def open_decoders() -> AsyncIterator[Decoders]:
    pool = Decoders(1)
    try:
        yield pool
    finally:
        pool.close()


def run(work: Callable[[Decoders], Awaitable[None]]) -> None:
    async def main() -> None:
        async with open_decoders() as pool:
            await work(pool)

    asyncio.run(main())


def _opened(encoded: Encoded, name: str = "image") -> Image.Image:
    return Image.open(io.BytesIO(encoded.data[name]))


def test_what_is_decoded_comes_back_without_loss() -> None:
    jpeg = io.BytesIO()
    Image.effect_noise((31, 17), 90).convert("RGB").save(jpeg, "JPEG")

    async def work(pool: Decoders) -> None:
        for data in (jpeg.getvalue(), png((9, 5), (1, 2, 3, 0), "RGBA")):
            encoded = await pool.decode({"image": data}, PICTURE)
            opened, expected = _opened(encoded), Image.open(io.BytesIO(data))
            assert (opened.mode, opened.size) == (expected.mode, encoded.sizes["image"])
            assert opened.tobytes() == expected.tobytes()

    run(work)


@pytest.mark.parametrize("classes", [7, 300])
def test_label_maps_keep_their_classes(classes: int) -> None:
    labels = Image.new("I", (3, 1))
    labels.putpixel((1, 0), classes - 1)
    data = io.BytesIO()
    labels.convert("I;16").save(data, "PNG")

    async def work(pool: Decoders) -> None:
        reading = Reading(how="label_map", max_pixels=100, classes=classes)
        encoded = await pool.decode({"image": data.getvalue()}, reading)
        assert [_opened(encoded).convert("I").getpixel((x, 0)) for x in range(3)] == [0, classes - 1, 0]
        with pytest.raises(InvalidRequest, match=r"class .* at pixel \(1, 0\)"):
            await pool.decode({"image": data.getvalue()}, reading.model_copy(update={"classes": classes - 1}))

    run(work)


@pytest.mark.parametrize(
    ("hole", "message"),
    [
        (mask((16, 16)), None),
        (png((16, 16), "white"), "covers the whole picture"),
        (png((16, 16), (255, 255, 255, 0), "RGBA"), "nothing but transparent"),
    ],
)
def test_odd_masks_are_told(hole: bytes, message: str | None) -> None:
    async def work(pool: Decoders) -> None:
        reading = Reading(how="picture_and_mask", max_pixels=10_000)
        encoded = await pool.decode({"image": png(), "mask": hole}, reading)
        assert [warning.field for warning in encoded.warnings] == ([] if message is None else ["mask"])
        assert message is None or message in encoded.warnings[0].message

    run(work)


def test_refusals_come_back_as_they_are_and_keep_the_process() -> None:
    async def work(pool: Decoders) -> None:
        with pytest.raises(InvalidRequest) as refused:
            await pool.decode({"image": png((200, 100))}, PICTURE)
        error = refused.value
        assert (error.field, error.value, error.bound) == ("image", "200×100", 10_000)
        kept = list(pool._idle)
        await pool.decode({"image": png()}, PICTURE)
        assert pool._idle == kept

    run(work)


def test_a_decoder_that_was_killed_is_no_fault_of_the_next_picture() -> None:
    async def work(pool: Decoders) -> None:
        await pool.decode({"image": png()}, PICTURE)
        os.kill(pool._idle[0]._process.pid, signal.SIGKILL)
        assert (await pool.decode({"image": png()}, PICTURE)).sizes == {"image": (16, 16)}
        assert len(pool._idle) == 1

    run(work)


def test_what_breaks_two_decoders_can_not_be_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(pool: Decoders) -> None:
        with monkeypatch.context() as broken:
            broken.setattr(sys, "executable", "/bin/false")
            with pytest.raises(InvalidRequest, match="can't be decoded"):
                await pool.decode({"image": png()}, PICTURE)
        assert pool._idle == []
        assert (await pool.decode({"image": png()}, PICTURE)).sizes == {"image": (16, 16)}

    run(work)


def test_who_leaves_while_pictures_are_decoded_costs_no_decoder() -> None:
    told: list[object] = []
    slow = png_of(4000, 4000, 8, 2, b"\0" * (4000 * 12001))

    async def work(pool: Decoders) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        await pool.decode({"image": png()}, PICTURE)
        kept = list(pool._idle)
        for data in (slow, b"no picture"):
            left = asyncio.create_task(pool.decode({"image": data}, Reading(how="picture", max_pixels=2**24)))
            await asyncio.sleep(0.01)
            left.cancel()
            await asyncio.wait([left])
            assert (await pool.decode({"image": png()}, PICTURE)).sizes == {"image": (16, 16)}
        gc.collect()
        assert pool._idle == kept

    run(work)
    assert told == []


def test_what_takes_too_long_is_ended_by_its_cpu_time() -> None:
    """Millions of chunks of nothing, each of which Pillow reads."""
    slow = png_of(1, 1, 8, 2, b"\0" * 4, chunk(b"teXt", b"") * 1_500_000)

    async def work(pool: Decoders) -> None:
        for _ in range(2):
            with pytest.raises(InvalidRequest, match="more than 2 s to decode") as refused:
                await pool.decode({"image": slow}, PICTURE)
            assert (refused.value.field, refused.value.bound) == ("image", "2 s of decoding")
            await pool.decode({"image": png()}, PICTURE)

    run(work)


def test_larger_pictures_have_more_time() -> None:
    assert (decoders.limit_s(100), decoders.limit_s(2**24), decoders.limit_s(2**26)) == (2.0, 2.0, 8.0)


def test_one_that_never_answers_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(pool: Decoders) -> None:
        await pool.decode({"image": png()}, PICTURE)  # as long as a busy machine takes to start a process
        monkeypatch.setattr(decoders, "PATIENCE_S", 1.0)
        os.kill(pool._idle[0]._process.pid, signal.SIGSTOP)
        with pytest.raises(InvalidRequest, match="more than 2 s"):
            await pool.decode({"image": png()}, PICTURE)

    run(work)


def test_closing_ends_processes_at_work() -> None:
    async def main() -> None:
        async with open_decoders() as pool:
            await pool.decode({"image": png()}, PICTURE)
            process = pool._idle[0]._process
            os.kill(process.pid, signal.SIGSTOP)
            asked = asyncio.create_task(pool.decode({"image": png()}, PICTURE))
            await asyncio.sleep(0.1)
        with pytest.raises(InvalidRequest, match="can't be decoded"):
            await asked
        assert process.returncode == -signal.SIGKILL

    asyncio.run(main())


def test_messages_that_are_cut_short_are_none() -> None:
    stream = io.BytesIO()
    write_message(stream, [b"one", b"", b"three"])
    whole = stream.getvalue()
    assert read_message(io.BytesIO(whole)) == [b"one", b"", b"three"]
    assert all(read_message(io.BytesIO(whole[:cut])) is None for cut in range(len(whole)))


def test_a_closed_decoder_says_that_it_died() -> None:
    decoder = Decoder()
    decoder.close()
    with pytest.raises(decoders.DecoderDied):
        decoder.ask({"image": png()}, PICTURE)


def test_who_would_wait_long_is_told_when_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "WAIT_S", 0.0)
    slow = png_of(4000, 4000, 8, 2, b"\0" * (4000 * 12001))

    async def work(pool: Decoders) -> None:
        reading = Reading(how="picture", max_pixels=2**24)
        first = asyncio.create_task(pool.decode({"image": slow}, reading))
        await asyncio.sleep(0)
        with pytest.raises(DecodersBusy, match="all decoders") as busy:
            await pool.decode({"image": png()}, PICTURE)
        assert busy.value.retry_after > 0
        await first
        await pool.decode({"image": png()}, PICTURE)

    run(work)
