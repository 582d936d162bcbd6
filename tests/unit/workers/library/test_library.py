from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import pytest
import torch
from structlog.testing import capture_logs
from torch import Tensor

from core.errors import CheckpointError
from models.checkpoints.layouts.native import save_native
from models.pipeline.fused import ALONE, making
from models.pipeline.pipeline import LatentDiffusion
from tests.tiny import configs, random_weights, write_tiny
from workers.claim_policy import LEAST_PAUSE_S, LOAD_SHARE, load_pause
from workers.library.library import MIB, TRIES, Arrival, ModelLibrary, Offered, offered
from workers.library.loading import load_offered

NAMES = ("one", "two", "three")


class Clock:
    """A clock that stands still until it is set."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Offered]:
    """Three models of one size."""
    folder = tmp_path_factory.mktemp("three")
    return [
        offered(name, write_tiny("bare", folder / name, seed), "cpu", torch.float32) for seed, name in enumerate(NAMES)
    ]


@pytest.fixture
def clock() -> Clock:
    return Clock()


def library_of(models: list[Offered], clock: Clock, room: int, resident: int = 0) -> ModelLibrary:
    library = ModelLibrary(models, room * models[0].size, load_offered, clock)
    for model in models[:resident]:
        library.fill(model.id)
    return library


def ended(library: ModelLibrary) -> Arrival:
    """Wait for the load that runs."""
    while (arrival := library.arrived()) is None:
        time.sleep(0.001)
    return arrival


def settled(library: ModelLibrary) -> None:
    """Wait for a load that succeeds."""
    assert ended(library).error is None


def test_the_least_recently_used_leaves(models: list[Offered], clock: Clock) -> None:
    library = library_of(models, clock, room=2, resident=2)
    library.use(["one"])
    library.want(["three"], used=["three"])
    assert list(library.resident) == ["one"]
    assert library.take_evicted() == ["two"]
    settled(library)
    assert list(library.resident) == ["one", "three"]
    assert library.take_evicted() == []


def test_what_has_jobs_stays_and_is_given_no_more_until_it_leaves(models: list[Offered], clock: Clock) -> None:
    library = library_of(models, clock, room=2, resident=2)
    used = ["one", "two", "three"]
    library.want(["three"], used)
    assert list(library.resident) == ["one", "two"]
    assert library.claimable(used) == ["two", "three"]
    library.want(["three"], ["two", "three"])
    assert list(library.resident) == ["two"]
    settled(library)
    assert list(library.resident) == ["two", "three"]


def test_one_without_jobs_leaves_before_one_that_was_used_less_recently(models: list[Offered], clock: Clock) -> None:
    library = library_of(models, clock, room=2, resident=2)
    library.want(["three"], used=["one", "three"])
    assert library.take_evicted() == ["two"]
    settled(library)


def test_a_busy_worker_rests_between_loads(models: list[Offered], clock: Clock) -> None:
    library = library_of(models, clock, room=1, resident=1)
    assert library.claimable(["one"]) == ["one", "two", "three"]
    library.want(["two"], ["two"])
    clock.now += 3.0
    settled(library)
    assert library.claimable(["two"]) == ["two"]
    assert library.claimable([]) == ["two", "one", "three"], "an idle one leaves at once"
    clock.now += (LOAD_SHARE - 1) * 3.0
    assert library.claimable(["two"]) == ["two", "one", "three"]
    assert load_pause(0.1) == LEAST_PAUSE_S


def test_nobody_who_waits_lets_all_stay(models: list[Offered], clock: Clock) -> None:
    library = library_of(models, clock, room=1, resident=1)
    library.want(["two"], ["one", "two"])
    assert library.claimable(["one", "two"]) == ["two"]
    library.want((), ["one"])
    assert library.claimable(["one"]) == ["one", "two", "three"]
    assert list(library.resident) == ["one"]


def test_a_model_that_fails_again_and_again_is_offered_no_more(models: list[Offered], clock: Clock) -> None:
    def broken(_: Offered) -> LatentDiffusion:
        raise CheckpointError("/secret/path: damaged")

    library = ModelLibrary(models, models[0].size, broken, clock)
    for tries in range(1, TRIES + 1):
        library.want(["one"], ["one"])
        arrival = ended(library)
        assert arrival.error is not None
        assert "model 'one' can't be loaded" in arrival.error.detail
        assert "secret" not in arrival.error.detail
        assert ("one" in library.names()) == (tries < TRIES)
    assert library.claimable([]) == ["two", "three"]


def test_a_model_that_is_overwritten_while_it_loads_is_not_served(tmp_path: Path, clock: Clock) -> None:
    def load(model: Offered) -> LatentDiffusion:
        loaded = load_offered(model)
        os.utime(model.folder / "unet.safetensors", (1, 1))
        return loaded

    one = offered("one", write_tiny("bare", tmp_path / "one"), "cpu", torch.float32)
    library = ModelLibrary([one], one.size, load, clock)
    library.want(["one"], ["one"])
    assert ended(library).error is not None
    assert not library.resident


def rss() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1024


def test_memory_returns_as_models_leave(tmp_path: Path, clock: Clock) -> None:
    small = configs()["bare"]
    config = replace(small, unet=replace(small.unet, channels=(96, 288), norm_groups=32))
    for seed, name in enumerate(NAMES):
        save_native(random_weights(config, seed), tmp_path / name)
    models = [offered(name, tmp_path / name, "cpu", torch.float32) for name in NAMES]
    assert models[0].size > 20 * MIB
    library, sizes = ModelLibrary(models, models[0].size, load_offered, clock), []
    for name in NAMES * 2:
        library.want([name], [name])
        ended(library)
        assert list(library.resident) == [name]
        gc.collect()
        sizes.append(rss())
    assert max(sizes[3:]) < sizes[0] + 1.5 * models[0].size


def test_models_of_one_job_come_one_after_another_and_neither_leaves_for_the_other(
    models: list[Offered], clock: Clock
) -> None:
    library = library_of(models, clock, room=2, resident=2)
    assert library.holds(["one", "three"])
    assert not library.holds(NAMES), "not at once"
    assert not library.holds(["one", "four"])
    for _ in range(2):
        library.want(["one", "three"], used=["one", "two", "three"])
        assert library.claimable(["two"]) == ["one", "three"], "the other makes room, though it was used later"
    library.want(["one", "three"], used=["one", "three"])
    settled(library)
    assert list(library.resident) == ["one", "three"]
    assert not library.lacking(["three", "one"])


def test_a_load_that_lacks_memory_while_kernels_are_fused_is_tried_again(models: list[Offered], clock: Clock) -> None:
    """What a model that left memory is still being fused of stays there until that is done."""
    begun, tries = Event(), list[bool]()

    def fuse() -> None:
        with ALONE:
            begun.set()
            while not tries:
                time.sleep(0.001)

    def load(model: Offered) -> LatentDiffusion:
        tries.append(making())
        if tries[-1]:
            raise torch.OutOfMemoryError("full")
        return load_offered(model)

    fusing = Thread(target=fuse)
    fusing.start()
    begun.wait()
    library = ModelLibrary(models, models[0].size, load, clock)
    library.want(["one"], ["one"])
    settled(library)
    fusing.join()
    assert (tries, list(library.resident)) == ([True, False], ["one"])


def test_a_load_that_lacks_memory_fails_by_name(models: list[Offered], clock: Clock) -> None:
    def load(_: Offered) -> LatentDiffusion:
        raise torch.OutOfMemoryError("full")

    library = ModelLibrary(models, models[0].size, load, clock)
    library.want(["one"], ["one"])
    with capture_logs() as lines:
        arrival = ended(library)
    assert arrival.error is not None
    assert "model 'one' can't be loaded" in arrival.error.detail
    assert ["lacks memory" in line["error"] for line in lines] == [True]


@pytest.fixture
def placing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], None]:
    """Let torch fail as it places weights on a device."""

    def fail(error: Exception) -> None:
        def to(*_: object, **__: object) -> Tensor:
            raise error

        monkeypatch.setattr(Tensor, "to", to)

    return fail


def test_what_the_device_lacks_is_not_told_of_the_file(
    models: list[Offered], clock: Clock, placing: Callable[[Exception], None]
) -> None:
    library = library_of(models, clock, room=1)
    placing(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(CheckpointError, match=r"its device lacks memory for 1 MiB$"):
        library.fill("one")
    library.want(["one"], ["one"])
    with capture_logs() as lines:
        assert ended(library).error is not None
    assert ["lacks memory" in line["error"] for line in lines] == [True]


def test_a_device_that_fails_while_weights_are_placed_ends_the_worker(
    models: list[Offered], clock: Clock, placing: Callable[[Exception], None]
) -> None:
    library = library_of(models, clock, room=1)
    placing(torch.AcceleratorError("an illegal memory access"))
    library.want(["one"], ["one"])
    with pytest.raises(torch.AcceleratorError):
        ended(library)
