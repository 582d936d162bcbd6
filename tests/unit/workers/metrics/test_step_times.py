from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from PIL import Image
from redis import Redis

from contract.measurements import LATENT_FACTOR, WRITTEN_AT, ShapeTimes, StepTimes, read_tables
from contract.redis_keys import cells_written_key, step_times_key
from contract.request import JobRequest
from tests.engines import job_of, make_engine
from tests.enqueue import make_request
from workers.claim_policy import ClaimOrder, ModelLane
from workers.engine.messages import Called, Finished, Prepared
from workers.metrics.step_times import (
    CELLS_KEPT,
    REMEMBERED,
    SHAPES_KEPT,
    StepTimer,
    read_published,
    timed,
    write_cells,
)

SHAPE = (4, 8, 8)
PICTURE = Image.new("RGB", (8, 8))


@dataclass(frozen=True)
class TimedJob:
    request: JobRequest


@dataclass(frozen=True)
class Model:
    latent_factor: int
    device: torch.device


MODELS = {"tiny": Model(8, torch.device("cpu"))}


def taken(timer: StepTimer) -> dict[str, float]:
    """What changed, of the only model, without what stands beside its cells."""
    fields = timer.take()["tiny"]
    assert fields.pop(LATENT_FACTOR) == 8
    assert {name.partition("@")[2] for name in fields} == {"cpu"}
    return {name.partition("@")[0]: seconds for name, seconds in fields.items()}


def table(cells: dict[str, float]) -> StepTimes:
    return read_tables("tiny", {name: str(value) for name, value in cells.items()})["cpu"]


def called(rows: int, side: int = 8, controls: int = 0) -> Called:
    return Called("tiny", rows, rows, False, 0.0, rows, (4, side, side), controls)


def finished(index: int, decode_s: float) -> Finished:
    return Finished("a", index, PICTURE, 0.0, decode_s, SHAPE)


def test_turns_become_the_table() -> None:
    timer, jobs = StepTimer(MODELS), {"a": TimedJob(make_request())}
    for _ in range(2):
        timer.turned([Prepared("a", 0.5, 0, 4, SHAPE)], 0.5, jobs)
        timer.turned([called(2)], 0.1, jobs)
        timer.turned([called(8)], 0.2, jobs)
        timer.turned([finished(0, 0.3), finished(1, 0.3)], 0.6, jobs)
        timer.stored("tiny", 0.05)
        timer.rounded(0.001, moved=0)
    for _ in range(2):
        timer.rounded(0.007, moved=2)
    found = table(timer.take()["tiny"])
    assert found.shapes == (ShapeTimes(shape=SHAPE, calls={2: 0.1, 8: 0.2}, encode_s={"txt2img": 0.5}, decode_s=0.3),)
    assert (found.store_s, found.round_s) == (0.05, 0.001)
    assert found.move_s == pytest.approx(0.003)


def test_what_a_gpu_does_in_a_turn_beside_the_call_that_it_reads_is_no_part_of_that() -> None:
    """Every turn is said to have taken an hour: a call's alone may be believed."""
    engine, hour = make_engine(as_gpu=True), 3600.0
    jobs = {name: job_of(name, steps=6) for name in ("a", "b")}
    engine.admit(jobs["a"])
    told: list[list[tuple[str, float]]] = []
    while engine.busy:
        if len(told) == 3:
            engine.admit(jobs["b"])
        told.append([(what, own_s) for _, _, what, own_s in timed(engine.turn(), hour, jobs)])
    calls = [seconds for turn in told for what, seconds in turn if what.startswith("rows:")]
    [late] = [dict(turn) for turn in told[1:] if "encode:txt2img" in dict(turn)]
    assert set(late) == {"rows:2", "encode:txt2img"}
    decoded = [seconds for turn in told for what, seconds in turn if what == "decode"]
    assert max(*late.values(), *decoded, calls[-1]) < hour, "the last one is read as decoding begins"
    assert calls[0] == hour


def test_a_call_that_a_preview_has_waited_for_counts_as_the_device_took_for_it() -> None:
    [(*_, seconds)] = timed([replace(called(2), seconds=0.2)], 0.01, {})
    assert seconds == 0.2


def test_strict_calls_tell_their_size() -> None:
    timer = StepTimer(MODELS)
    for _ in range(2):
        timer.turned([replace(called(1), padded_rows=4, strict=True)], 0.3, {})
    found = table(timer.take()["tiny"])
    assert (found.strict_rows, found.shapes[0].calls) == (4, {4: 0.3})


def test_only_changes_are_taken_and_averages_follow() -> None:
    timer = StepTimer(MODELS)
    for seconds in [1.0, 3.0] * 100:
        timer.turned([called(4)], seconds, {})
    assert taken(timer)["4x8x8:rows:4"] == pytest.approx(2.0, rel=0.02), "one call doesn't move it"
    assert timer.take() == {}
    for seconds in [4.0] * 4 * REMEMBERED:
        timer.turned([called(4)], seconds, {})
    assert taken(timer)["4x8x8:rows:4"] == pytest.approx(4.0, rel=0.02), "a lasting change does"


def test_what_is_done_for_the_first_time_warms_up_and_is_told_to_nobody() -> None:
    """A deadline that it could not meet would be refused for ever; each restart would write it over what was known."""
    timer, jobs = StepTimer(MODELS), {"a": TimedJob(make_request())}
    timer.turned([Prepared("a", 6.0, 0, 4, SHAPE)], 6.0, jobs)
    timer.turned([called(4)], 60.0, {})
    timer.turned([finished(0, 9.0), finished(1, 9.0)], 18.0, jobs)
    timer.stored("tiny", 8.0)
    timer.rounded(7.0, moved=0)
    assert timer.take() == {}
    timer.turned([Prepared("a", 0.1, 0, 4, SHAPE)], 0.1, jobs)
    for seconds in (1.0, 2.0, 3.0):
        timer.turned([called(4)], seconds, {})
    timer.turned([finished(0, 0.2), finished(1, 0.4)], 0.6, jobs)
    assert taken(timer) == {
        "4x8x8:encode:txt2img": pytest.approx(0.1),
        "4x8x8:rows:4": pytest.approx(2.0),
        "4x8x8:decode": pytest.approx(0.3),
    }


def test_the_shapes_that_a_worker_remembers_are_bounded() -> None:
    timer = StepTimer(MODELS)
    for side in range(1, 3 * SHAPES_KEPT):
        for _ in range(2):
            timer.turned([called(2, side)], 1.0, {})
    timer.take()
    for _ in range(2):
        timer.turned([called(2, 1)], 3.0, {})
    assert taken(timer) == {"4x1x1:rows:2": 3.0}, "forgotten, so no average"


def test_workers_share_a_bounded_hash_and_have_a_table_for_each_kind_of_device(redis: Redis) -> None:
    for cells in (
        {LATENT_FACTOR: 8, "4x8x8:rows:2@cpu": 0.1, "4x8x8:rows:2@NVIDIA H100": 0.01},
        {LATENT_FACTOR: 8, "4x8x8:rows:4@cpu": 0.15, "store@cpu": 0.2},
    ):
        with redis.pipeline() as pipe:
            write_cells(pipe, "tiny", cells)
            pipe.execute()
    tables = read_published(redis, "tiny")
    assert {kind: found.shapes[0].calls for kind, found in tables.items()} == {
        "NVIDIA H100": {2: 0.01},
        "cpu": {2: 0.1, 4: 0.15},
    }
    assert [found.store_s for found in tables.values()] == [None, 0.2]


def write(redis: Redis, cells: dict[str, float]) -> None:
    with redis.pipeline() as pipe:
        write_cells(pipe, "tiny", {LATENT_FACTOR: 8, **cells})
        pipe.execute()


def test_of_too_many_cells_those_written_longest_ago_go(redis: Redis) -> None:
    key, written = step_times_key("tiny"), cells_written_key("tiny")
    redis.hset(key, mapping={"older release@cpu": 1})
    write(redis, {"old@cpu": 1, "used@cpu": 1})
    write(redis, {f"{i}@cpu": 1 for i in range(CELLS_KEPT - 5)})
    redis.zadd(written, {"old@cpu": 1, "used@cpu": 2})
    write(redis, {"used@cpu": 2})
    assert redis.hlen(key) == CELLS_KEPT
    for number, gone in enumerate(("older release@cpu", "old@cpu")):
        write(redis, {f"new {number}@cpu": 1})
        assert redis.hlen(key) == CELLS_KEPT
        assert redis.hget(key, gone) is None
    assert redis.hget(key, "used@cpu") == b"2"
    assert None not in redis.hmget(key, LATENT_FACTOR, WRITTEN_AT)
    assert set(redis.zrange(written, 0, -1)) == set(redis.hkeys(key)) - {LATENT_FACTOR.encode(), WRITTEN_AT.encode()}


def test_every_write_has_a_moment_of_its_own(redis: Redis) -> None:
    moments = set()
    for _ in range(3):
        with redis.pipeline() as pipe:
            write_cells(pipe, "tiny", {"store@cpu": 0.3})
            pipe.execute()
        moments.add(redis.hget(step_times_key("tiny"), WRITTEN_AT))
    assert len(moments) == 3


def test_interactive_is_asked_first_but_every_fifth_time_and_models_take_turns() -> None:
    order = ClaimOrder(["a", "b"])
    lanes: list[ModelLane] = [("a", "bulk"), ("b", "interactive"), ("a", "interactive")]
    assert order.of(lanes) == [("a", "interactive"), ("b", "interactive"), ("a", "bulk")]
    order.took("a")
    assert order.of(lanes) == [("b", "interactive"), ("a", "interactive"), ("a", "bulk")]
    for _ in range(3):
        order.took("b")
    assert order.of(lanes)[0] == ("a", "bulk")


def test_models_in_memory_are_asked_before_others_but_every_tenth_time() -> None:
    order = ClaimOrder(["a", "b"])
    lanes: list[ModelLane] = [("a", "interactive"), ("b", "bulk")]
    assert order.of(lanes, cold=["a"]) == [("b", "bulk"), ("a", "interactive")]
    for _ in range(5):
        order.took("b")
    assert order.of(lanes, cold=["a"]) == [("a", "interactive"), ("b", "bulk")]


def test_of_models_that_are_not_in_memory_interactive_jobs_go_first_too() -> None:
    order = ClaimOrder(["hot", "c", "d"])
    lanes: list[ModelLane] = [("hot", "interactive"), ("c", "bulk"), ("d", "interactive")]
    first = []
    for _ in range(10):
        first.append(order.of(lanes, cold=["c", "d"])[0])
        order.took("hot")
    assert first.count(("d", "interactive")) == 1
    assert first.count(("hot", "interactive")) == 9


def test_calls_with_controlnets_are_measured_as_if_without() -> None:
    timer = StepTimer(MODELS)
    for _ in range(2):
        timer.turned([called(4, controls=5)], 0.6, {})
    assert taken(timer)["4x8x8:rows:4"] == pytest.approx(0.4)  # five rows of 0.4 beside four
