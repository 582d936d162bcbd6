"""Tables from the cells that workers write, and seconds by shape."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from contract.base import Kind
from contract.job import Timings
from contract.measurements import (
    LATENT_FACTOR,
    WRITTEN_AT,
    JobWork,
    SizeTimes,
    StepTimes,
    predict,
    read_tables,
    step_times,
)
from tests.engines import make_request
from tests.times import cells

SMALL = {"4x32x32:rows:2": 0.02, "4x32x32:rows:16": 0.08, "4x32x32:encode:txt2img": 0.01, "4x32x32:decode": 0.012}
LARGE = {"4x128x128:rows:2": 0.5, "4x128x128:rows:4": 0.9}


def at(side: int, measured: dict[str, float], kind: Kind = "txt2img") -> SizeTimes:
    found = predict(step_times("m", 8, measured), kind, side, side)
    assert found is not None
    return found


def test_tables_are_read_by_kind_of_device_and_unknown_cells_are_passed_over() -> None:
    fields = {LATENT_FACTOR: "8", WRITTEN_AT: "1.2", "store@cpu": "0.5", "4x8x8:rows:2@NVIDIA H100": "0.01"}
    newer = {"4x8x8:encode:video@cpu": "1", "4x8x8x2:rows:2@cpu": "1", "4x8x8:other@cpu": "1", "beside": "text"}
    tables = read_tables("m", fields | newer)
    assert list(tables) == ["NVIDIA H100", "cpu"]
    assert tables["cpu"].store_s == 0.5
    assert [times.calls for times in tables["NVIDIA H100"].shapes] == [{2: 0.01}]
    assert tables["cpu"].shapes[0].encode_s == {}
    assert read_tables("m", {}) == {}


def test_a_table_of_a_newer_version_is_read() -> None:
    table = step_times("m", 8, SMALL)
    values = table.model_dump() | {"peak_bytes": 7}
    assert StepTimes.model_validate(values) == table
    with pytest.raises(ValidationError):
        Timings.model_validate({"peak_bytes": 7})


def test_work_travels_as_text() -> None:
    request = make_request(kind="img2img", width=250, height=100, steps=20, strength=0.5, num_images=3)
    work = JobWork.of(request)
    assert (work.steps, work.rows, work.images) == (10, 6, 3)
    assert work.steps * work.rows == request.rows
    assert JobWork.parse(str(work)) == work


def test_calls_are_interpolated_by_rows() -> None:
    calls = at(256, SMALL).calls
    assert [calls.at(rows) for rows in (1, 2, 9, 16, 32)] == pytest.approx([0.02, 0.02, 0.05, 0.08, 0.16])
    assert calls.row_s == pytest.approx(0.08 / 16), "a row's share of the fullest call"


def test_a_size_is_predicted_from_the_nearest_that_was_measured() -> None:
    both = SMALL | LARGE
    assert at(1024, both).calls.at(2) == pytest.approx(0.5), "its own"
    assert at(1000, both).calls.at(2) == pytest.approx(0.5), "padded to it"
    assert at(512, SMALL).calls.at(2) == pytest.approx(4 * 0.02)
    assert at(4096, both).calls.at(2) == pytest.approx(16 * 0.5)
    assert at(64, SMALL).calls.at(2) == pytest.approx(0.02 / 16)
    assert at(512, SMALL).shape == (4, 64, 64)


def test_what_was_not_measured_at_the_size_of_the_calls_is_that_of_the_nearest() -> None:
    times = at(1024, SMALL | LARGE)
    assert times.decode_s == pytest.approx(16 * 0.012)
    assert times.sources["calls"].ratio == 1.0
    assert times.sources["decoding"].shape == (4, 32, 32)
    assert at(256, SMALL, "inpaint").encode_s is None


def test_nothing_is_predicted_before_a_call_was_measured() -> None:
    assert predict(step_times("m", 8, {"store": 1.0, "4x32x32:decode": 0.1}), "txt2img", 256, 256) is None


def test_seconds_of_a_job() -> None:
    work = JobWork("txt2img", 64, 64, steps=10, rows=4, images=2)
    times = at(64, cells(row_s=0.1, encode_txt2img=0.25, decode=0.5, store=3.0))
    assert times.gpu_s(work) == pytest.approx(10 * 4 * 0.1 + 0.25 + 2 * 0.5), "storing isn't the GPU's"
    assert times.tail_s(work) == pytest.approx(2 * 0.5 + 3.0)
    assert times.alone_s(work) == pytest.approx(0.25 + 10 * 0.4 + 2 * 0.5 + 3.0)


def test_a_strict_job_alone_takes_calls_with_fillers() -> None:
    measured = {"4x8x8:rows:2": 0.2, "4x8x8:rows:4": 0.4, "4x8x8:rows:16": 1.6}
    fast, strict = (JobWork.of(make_request(steps=10, determinism=how)) for how in ("fast", "strict"))
    seconds = [at(64, measured | {"strict_rows": 4.0}).alone_s(work) for work in (fast, strict)]
    assert seconds == pytest.approx([10 * 0.2, 10 * 0.4])
    assert at(64, measured).alone_s(strict) == seconds[0], "no worker has told yet"
    more = JobWork.of(make_request(steps=10, determinism="strict", num_images=3))
    wide = at(64, measured | {"strict_rows": 4.0, "decode": 0.0}).alone_s(more)
    assert wide == pytest.approx(10 * 2 * 0.4), "6 rows are two calls of 4"


def test_a_job_alone_never_takes_less_than_the_smallest_call() -> None:
    work = JobWork("txt2img", 64, 64, steps=10, rows=1, images=1)
    assert at(64, {"4x8x8:rows:4": 0.6, "4x8x8:rows:16": 1.6}).alone_s(work) == pytest.approx(10 * 0.6)
