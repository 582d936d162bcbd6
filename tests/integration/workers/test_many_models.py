"""Several models in the memory of one worker that holds two: each is served in turn, and leaves for the next."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Event

import pytest
from redis import Redis

from contract.job import TERMINAL
from contract.redis_keys import CARDS_KEY, job_key
from contract.request import JobRequest
from jobs.cancel import cancel
from jobs.end import Retention
from models.pipeline.pipeline import LatentDiffusion
from tests.enqueue import digests, enqueue, job_state, make_request
from tests.integration.conftest import MakeRig
from tests.integration.rig import Rig, break_at, kill, tiny_settings
from tests.tiny import write_tiny
from workers.library import loading
from workers.library.library import TRIES, Offered, offered
from workers.library.loading import choose_dtype

NAMES = ("one", "two", "three")

Load = Callable[[Offered], LatentDiffusion]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models of the same shape and other weights."""
    folder = tmp_path_factory.mktemp("three")
    for seed, name in enumerate(NAMES):
        write_tiny("plain", folder / name, seed)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "models"))


@pytest.fixture
def make(
    redis: Redis, folder: Path, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MakeRig]:
    """Makes workers with room for as many of the three models as asked."""
    settings = tiny_settings(folder, redis_url, tmp_path)
    size = offered("one", folder / "one", "cpu", choose_dtype(settings.dtype, "cpu")).size
    rigs: list[Rig] = []

    def made(room: int, name: str = "rig", save_s: float = 2.0, models: Sequence[str] = NAMES) -> Rig:
        monkeypatch.setattr(loading, "MIB", size)
        used = settings.model_copy(update={"models_mb": room})
        rigs.append(Rig(redis, used, name, save_s, models))
        return rigs[-1]

    yield made
    for rig in rigs:
        rig.close()


def asked(model: str, **fields: object) -> JobRequest:
    return make_request(model, **fields)


def test_three_models_are_served_where_two_fit(redis: Redis, make: MakeRig) -> None:
    rig = make(2)
    assert list(rig.library.resident) == ["one", "two"]
    before: dict[str, list[str]] = {}
    for turn in ("first", "second"):
        for name in NAMES:
            enqueue(redis, f"{name}-{turn}", asked(name, determinism="strict"))
            assert rig.finish(f"{name}-{turn}") == ["succeeded"]
            assert len(rig.library.resident) == 2
            assert before.setdefault(name, digests(redis, f"{name}-{turn}")) == digests(redis, f"{name}-{turn}")
    assert len({tuple(each) for each in before.values()}) == 3
    assert rig.sample("latentd_model_loads_total", model="three", outcome="succeeded") == 2
    assert rig.sample("latentd_model_evictions_total", model="one") == 2
    assert [rig.sample("latentd_model_resident", model=name) for name in NAMES] == [0, 1, 1]
    assert rig.sample("latentd_unet_flops_total", model="three") > 0


def test_all_are_served_at_once_where_one_fits(redis: Redis, make: MakeRig) -> None:
    rig = make(1)
    jobs = {f"{name}-{index}": asked(name, seed=index) for index in range(3) for name in NAMES}
    for job_id, request in jobs.items():
        enqueue(redis, job_id, request)
    assert set(rig.finish(*jobs)) == {"succeeded"}
    assert len(rig.library.resident) == 1
    loads = sum(rig.sample("latentd_model_loads_total", model=name, outcome="succeeded") for name in NAMES)
    assert loads <= 4, "jobs of a model that is there go first"


def test_steady_work_does_not_starve_a_model_that_is_not_there(redis: Redis, make: MakeRig) -> None:
    rig = make(1, models=("one", "two"))
    steady = [f"steady-{index}" for index in range(100)]  # three times as many as it claims at once
    for job_id in steady:
        enqueue(redis, job_id, asked("one", steps=8))
    rig.until(lambda: rig.sample("latentd_denoising_steps_total", model="one") > 0)
    enqueue(redis, "rare", asked("two"))
    assert rig.finish("rare") == ["succeeded"]
    assert job_state(redis, steady[-1])["status"] not in TERMINAL
    assert set(rig.finish(*steady)) == {"succeeded"}


def test_a_strict_job_goes_on_where_its_model_has_to_be_loaded(redis: Redis, make: MakeRig) -> None:
    request = asked("three", determinism="strict", steps=8, num_images=2)
    first, second = make(3, "first", save_s=0), make(2, "second")
    enqueue(redis, "whole", request)
    assert first.finish("whole") == ["succeeded"]
    enqueue(redis, "broken", request)
    step = break_at(redis, first, "broken", 4)
    second.reaper.turn()
    assert second.finish("broken") == ["succeeded"]
    assert step >= 4
    assert "three" in second.library.resident
    assert second.sample("latentd_denoising_steps_total", model="three") == 16 - step
    assert digests(redis, "broken") == digests(redis, "whole")


def test_a_suspect_whose_model_does_not_load_costs_it_one_try(redis: Redis, make: MakeRig, folder: Path) -> None:
    rig = make(2)
    shutil.rmtree(folder / "three")
    enqueue(redis, "suspect", asked("three"))
    redis.hset(job_key("suspect"), "deaths", "2")
    assert rig.finish("suspect") == ["failed"]
    assert "model 'three' can't be loaded" in job_state(redis, "suspect")["error"]
    assert "three" in rig.library.names()


@pytest.mark.parametrize("lost", ["gone", "replaced", "damaged"])
def test_a_model_that_is_not_what_it_was_fails_its_job_by_name(
    redis: Redis, make: MakeRig, folder: Path, lost: str
) -> None:
    rig = make(2)
    weights = next((folder / "three").rglob("unet*.safetensors"))
    if lost == "gone":
        shutil.rmtree(folder / "three")
    elif lost == "replaced":
        weights.write_bytes((folder / "one" / weights.relative_to(folder / "three")).read_bytes())
    else:
        weights.write_bytes(weights.read_bytes()[:-100])
    for index in range(TRIES):
        assert "three" in rig.library.names()
        enqueue(redis, f"lost-{index}", asked("three"))
        assert rig.finish(f"lost-{index}") == ["failed"]
        told = job_state(redis, f"lost-{index}")["error"]
        assert "model 'three' can't be loaded" in told
        assert str(folder) not in told
    assert rig.library.names() == ["one", "two"]
    assert list(rig.library.resident) == ["one", "two"], "nothing left in vain"
    enqueue(redis, "waits", asked("three"))
    enqueue(redis, "drawn", asked("one"))
    assert rig.finish("drawn") == ["succeeded"]
    assert job_state(redis, "waits")["status"] == "queued"


def test_a_job_whose_model_is_withdrawn_while_it_waits_fails_by_name(redis: Redis, make: MakeRig) -> None:
    rig = make(2)
    enqueue(redis, "first", asked("three"))
    enqueue(redis, "drawn", asked("one"))
    rig.loop._intake.claim()
    rig.library.withdraw("three")  # as its third load in vain does
    assert rig.finish("first", "drawn") == ["failed", "succeeded"]
    assert "model 'three' can't be loaded" in job_state(redis, "first")["error"]


def test_jobs_of_a_dead_worker_whose_model_nobody_else_serves_can_be_ended(redis: Redis, make: MakeRig) -> None:
    """A fleet split by `--model`: workers of other models queue them again."""
    dead, other = make(1, "dead", models=("one",)), make(1, "other", models=("two",))
    redis.hset(CARDS_KEY, mapping=dict.fromkeys(NAMES, "{}"))
    for job_id in ("tired", "awaited"):
        enqueue(redis, job_id, asked("one", steps=40))
    dead.until(lambda: dead.step("tired") > 0 < dead.step("awaited"))
    assert other.reaper.turn() == 0, "its executions live"
    for run in dead.loop.runs():
        redis.delete(run.execution.key)  # as if no heartbeat had come for 15 s
    assert cancel(redis, Retention(60, 60), "tired") == "running"
    assert other.reaper.turn() == 1
    assert [job_state(redis, job_id)["status"] for job_id in ("tired", "awaited")] == ["canceled", "queued"]
    assert make(1, "new", models=("one",)).finish("awaited") == ["succeeded"]


def test_a_job_whose_model_kills_its_workers_as_it_loads_is_quarantined(redis: Redis, make: MakeRig) -> None:
    """The last three die while nothing but it is there; what ran beside it before goes on."""
    enqueue(redis, "innocent", asked("one", steps=12))
    enqueue(redis, "poison", asked("two", steps=4))
    company = []
    for number in range(5):
        rig, loading_two, dead = make(1, f"worker-{number}", models=("one", "two")), Event(), Event()
        load = rig.library._load

        def hang(model: Offered, loads: Event = loading_two, until: Event = dead, load: Load = load) -> LatentDiffusion:
            loads.set()
            until.wait(300)
            return load(model)

        rig.library._load = hang
        rig.until(loading_two.is_set)
        company.append({run.job_id for run in rig.loop.runs()})
        kill(redis, rig)
        dead.set()
        rig.reaper.turn()
    assert company[2:] == [{"poison"}] * 3
    state = job_state(redis, "poison")
    assert (state["status"], "quarantined: 3 workers died" in state["error"]) == ("failed", True)
    assert make(1, "last", models=("one", "two")).finish("innocent") == ["succeeded"]
