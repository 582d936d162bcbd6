from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from redis import Redis
from rq.worker.base import BaseWorker
from safetensors.torch import save_file

from contract.card import ModelCard
from contract.redis_keys import CARDS_KEY, serving_key
from core.settings import Settings
from core.storage import open_store
from latentd.child import die_with_parent
from tests.enqueue import enqueue, event_types, job_state, make_request, result_of
from tests.integration.processes import WorkerProcess, ended
from tests.integration.rig import tiny_settings
from tests.redis_server import RedisServer
from tests.starved import allowance
from tests.unit.models.checkpoints.compvis_keys import random_state, sd_shapes
from tests.waits import wait_for
from workers.library.library import MIB, offered
from workers.library.loading import choose_dtype

Start = Callable[..., WorkerProcess]


@pytest.fixture
def start(settings: Settings, tmp_path: Path) -> Iterator[Start]:
    """Starts workers on the test's Redis, and kills what is left of them."""
    started: list[WorkerProcess] = []

    def begin(
        *, used: Settings = settings, drain_s: float = 30, ready: bool = True, forked: bool = True
    ) -> WorkerProcess:
        started.append(WorkerProcess(used, tmp_path, drain_s, forked))
        if ready:
            started[-1].ready()
        return started[-1]

    yield begin
    for worker in started:
        worker.kill()


def status(redis: Redis, job_id: str) -> str:
    return job_state(redis, job_id)["status"]


def images_of(settings: Settings, job_id: str) -> list[str]:
    """Stored objects of a job."""
    store = open_store(settings.storage)
    return [entry["path"] for page in store.list(f"images/{job_id}") for entry in page]


def test_a_worker_shows_itself_keeps_its_size_and_leaves(redis: Redis, start: Start) -> None:
    worker = start(forked=False)
    assert ModelCard.model_validate_json(redis.hget(CARDS_KEY, "tiny") or "").id == "tiny"
    wait_for(lambda: redis.zcard(serving_key("tiny")) == 1, 60, "serving")
    assert [one.get_state() for one in BaseWorker.all(connection=redis)] == ["idle"]
    for index in range(7):
        enqueue(redis, f"j{index}", make_request(steps=1))
        wait_for(lambda index=index: status(redis, f"j{index}") == "succeeded", 60, "result")  # type: ignore[misc]
    assert _growth_mb(redis, worker) < 10
    assert worker.stop() == 0
    assert BaseWorker.all(connection=redis) == []
    assert redis.zcard(serving_key("tiny")) == 0
    log = worker.log.read_text()
    (ready,) = [line for line in map(json.loads, log.splitlines()) if line["event"] == "ready"]
    assert (ready["device"], ready["models"]) == ("cpu", ["tiny"])
    assert "heart" not in log
    assert "rror" not in log


def _growth_mb(redis: Redis, worker: WorkerProcess) -> float:
    """How much a worker's resident memory grows from its 50th job to its 200th."""
    sizes = []
    for index in range(200):
        enqueue(redis, f"m{index}", make_request(steps=2, seed=index, prompt=f"red heart {index}"))
    for done in (50, 200):
        wait_for(lambda done=done: status(redis, f"m{done - 1}") == "succeeded", 180, f"{done} jobs")  # type: ignore[misc]
        sizes.append(worker.rss_mb())
    return sizes[1] - sizes[0]


def test_a_card_that_a_later_load_settles_is_published_again(
    redis: Redis, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, weights = tmp_path / "models", random_state(sd_shapes(width=64, context=64, heads=1, open_clip=True))
    models.mkdir()
    save_file(weights, models / "told.safetensors", {"modelspec.prediction_type": "v"})
    save_file(weights, models / "untold.safetensors")
    settings = tiny_settings(models, redis_url, tmp_path / "data")
    size = offered("told", models / "told.safetensors", "cpu", choose_dtype(settings.dtype, "cpu")).size
    monkeypatch.setenv("LATENTD_MODEL", "told")
    monkeypatch.setenv("LATENTD_MODELS_MB", str(-(-size // MIB)))  # room for one
    worker = WorkerProcess(settings, tmp_path, command=("worker", "--device", "cpu"))
    try:
        worker.ready()
        assert "v is assumed" in (redis.hget(CARDS_KEY, "untold") or b"").decode()  # type: ignore[union-attr]
        enqueue(redis, "a", make_request("untold", steps=1, width=64, height=64))
        wait_for(lambda: status(redis, "a") in ("succeeded", "failed"), 180, "result")
        card = ModelCard.model_validate_json(redis.hget(CARDS_KEY, "untold") or "")
    finally:
        worker.kill()
    assert f"{card.prediction_type}, by a call of the network" in card.description
    assert card.native_size == {"eps": 512, "v": 768}[card.prediction_type]


def test_after_kill_9_another_worker_finishes_the_job_once_within_30_seconds(
    redis: Redis, settings: Settings, start: Start
) -> None:
    first, second = start(ready=False), start(ready=False)
    first.ready()
    second.ready()
    enqueue(redis, "a", make_request(steps=1000, num_images=2))
    wait_for(lambda: int(job_state(redis, "a")["step"]) > 10, 60, "progress")
    by_first = job_state(redis, "a")["worker"]
    victim, other = (first, second) if str(first.process.pid) in _pid_of(redis, by_first) else (second, first)
    execution = job_state(redis, "a")["execution"]
    victim.kill()
    allowed = allowance(other.process.pid)
    again = wait_for(lambda: job_state(redis, "a").get("execution", execution) != execution, 120, "another execution")
    assert again - allowed() <= 30
    assert job_state(redis, "a")["worker"] != by_first
    wait_for(lambda: status(redis, "a") == "succeeded", 120, "result")
    result = result_of(redis, "a")
    assert sorted(images_of(settings, "a")) == [f"images/a/{result.execution}/{k}.png" for k in range(2)]
    types = event_types(redis, "a")
    assert (types.count("started"), types.count("succeeded"), types[-1]) == (1, 1, "succeeded")
    assert other.process.poll() is None


def _pid_of(redis: Redis, worker: str) -> str:
    return (redis.hget(f"rq:worker:{worker}", "pid") or b"").decode()  # type: ignore[union-attr]


# Workers that import torch, or load their models, for as long as the test wants.
IMPORTING = """
import sys, time
from latentd.cli import serve

class Slow:
    def find_spec(self, name, *_):
        if name == "torch":
            print("importing", flush=True)
            time.sleep(60)

sys.meta_path.insert(0, Slow())
serve.worker()
"""
LOADING = """
import time
from latentd.cli import serve
from workers import worker
worker.open_library = lambda *_: print("loading", flush=True) or time.sleep(60)
serve.worker(["tiny"])
"""


@pytest.mark.parametrize("program", [IMPORTING, LOADING], ids=["importing", "loading"])
def test_a_stop_while_a_worker_starts_ends_it_at_once(settings: Settings, program: str) -> None:
    environment = os.environ | {"REDIS_URL": settings.redis, "LATENTD_MODELS_DIR": str(settings.models_dir)}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, preexec_fn=die_with_parent) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        assert ended(process, 5) == 0  # not -15: it handled the signal, as the first process of a container must


def test_a_stop_while_redis_is_away_ends_the_worker_at_once(settings: Settings, tmp_path: Path, start: Start) -> None:
    away = settings.model_copy(update={"redis_url": f"unix://{tmp_path}/no.sock"})
    worker = start(used=away, ready=False)
    wait_for(lambda: "redis is away" in worker.log.read_text(), 60, "a try")
    assert worker.stop(5) == 0
    assert '"ready"' not in worker.log.read_text()


def test_a_second_signal_hands_back_at_once(redis: Redis, start: Start) -> None:
    worker = start(drain_s=100)
    enqueue(redis, "long", make_request(steps=1000, num_images=8, guidance_scale=3.0))
    wait_for(lambda: int(job_state(redis, "long")["step"]) > 0, 60, "progress")
    worker.process.terminate()
    wait_for(lambda: '"draining' in worker.log.read_text(), 30, "the first signal")
    time.sleep(1.2)  # another that comes sooner counts as the same Ctrl-C
    assert worker.stop(10) == 0
    assert status(redis, "long") == "queued"


def test_redis_killed_and_restarted_loses_nothing(tiny_models: Path, tmp_path: Path, start: Start) -> None:
    with RedisServer(aof=True) as server, server.connect() as redis:
        used = tiny_settings(tiny_models, server.url, tmp_path)
        worker = start(used=used)
        for index in range(4):
            enqueue(redis, f"j{index}", make_request(steps=1000))
        wait_for(lambda: int(job_state(redis, "j0")["step"]) > 5, 60, "progress")
        server.kill()
        time.sleep(1.0)
        server.start()
        for index in range(4):
            wait_for(lambda index=index: status(redis, f"j{index}") == "succeeded", 180, "result")  # type: ignore[misc]
            assert event_types(redis, f"j{index}").count("succeeded") == 1
            assert len(images_of(used, f"j{index}")) == 1
        assert worker.stop() == 0


AHEAD = """
import datetime, time
own, date = time.time, datetime.datetime
time.time = lambda: own() + 600
class Ahead(date):
    @classmethod
    def now(cls, tz=None):
        return date.now(tz) + datetime.timedelta(seconds=600)
datetime.datetime = Ahead
"""


def test_a_worker_whose_clock_is_ahead_keeps_deadlines(
    redis: Redis, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(AHEAD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    start(forked=False)
    enqueue(redis, "a", make_request(deadline_ms=60_000))
    wait_for(lambda: status(redis, "a") not in ("queued", "running"), 120, "end")
    assert status(redis, "a") == "succeeded", job_state(redis, "a")
    began, ended = (datetime.fromisoformat(job_state(redis, "a")[name]) for name in ("started_at", "ended_at"))
    assert abs((began - datetime.now(UTC)).total_seconds()) < 300
    assert began <= ended
