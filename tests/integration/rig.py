"""A whole worker inside the test's process, driven round by round: real Redis, real storage, tiny real models."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from obstore.store import LocalStore
from redis import Redis

from contract.job import TERMINAL
from contract.redis_keys import CANCELING_KEY, events_key, job_key, state_key
from core.settings import Settings
from core.storage import open_store
from jobs.end import Retention
from jobs.worker import BatchWorker
from tests.enqueue import RETENTION_S, job_state
from tests.tiny import write_tiny_inpaint, write_tiny_upscale
from workers.library.catalogue import find_cards
from workers.library.loading import engine_of, open_library
from workers.loop import Loop
from workers.metrics.families import WorkerMetrics
from workers.objects.storing import Storing
from workers.queue.reaper import Reaper
from workers.queue.savepoints import Savepoints
from workers.runs.saving import SAVE_S

MODELS = ("tiny", "tiny-upscale")


def write_models(folder: Path) -> Path:
    """The tiny models, in folders named as their cards' ids; `folder`."""
    write_tiny_inpaint(folder / "tiny")
    write_tiny_upscale(folder / "tiny-upscale")
    return folder


def tiny_settings(models_dir: Path, redis_url: str, data_dir: Path) -> Settings:
    """Settings of a one-thread worker."""
    return Settings(
        redis_url=redis_url, models_dir=models_dir, data_dir=data_dir, model="tiny", threads=1, retention_s=RETENTION_S
    )


class Rig:
    """One worker; several may share a Redis."""

    def __init__(
        self,
        redis: Redis,
        settings: Settings,
        name: str = "rig",
        save_s: float = SAVE_S,
        models: Sequence[str] = MODELS,
    ) -> None:
        self.redis = redis
        self.store = open_store(settings.storage)
        self.library = open_library(settings, models, "cpu")
        self.engine = engine_of(settings, self.library)
        self.worker = BatchWorker(name, models, redis)
        self.worker.arrive()
        self.metrics = WorkerMetrics()
        cards = find_cards(settings.models_dir)
        hashes = {model: cards[model][0].hash for model in models}
        self.savepoints = Savepoints(redis, self.store, hashes)
        self.storing = Storing(self.store, hashes, self.savepoints)
        retention = Retention.of(settings)
        parts = (self.worker, self.engine, self.library, self.storing, self.savepoints, self.metrics)
        self.loop = Loop(*parts, retention=retention, save_s=save_s)
        self.reaper = Reaper(
            redis, self.loop.claims.queues.values(), retention, "rig"
        )  # of all rigs: no lease lapses here

    def close(self) -> None:
        """End its threads."""
        self.library.close()
        self.storing.close()
        self.savepoints.close()

    def until(self, ready: Callable[[], bool], seconds: float = 180.0) -> None:
        """Run rounds until `ready`."""
        ends = time.monotonic() + seconds
        while not ready():
            assert time.monotonic() < ends, "the worker did not get there in time"
            self.loop.round()

    def finish(self, *job_ids: str) -> list[str]:
        """Run rounds until the jobs have ended; how they did."""
        self.until(lambda: all(job_state(self.redis, job_id)["status"] in TERMINAL for job_id in job_ids))
        return [job_state(self.redis, job_id)["status"] for job_id in job_ids]

    def step(self, job_id: str) -> int:
        """The step that the engine has reached; 0 where no run of the job is here. Clients are told a little later."""
        return max((run.step for run in self.loop.runs() if run.job_id == job_id), default=0)

    def settle(self) -> None:
        """Wait for the savepoints that are on their way."""
        while any(run.saving for run in self.loop.runs()):
            time.sleep(0.001)

    def objects(self) -> list[str]:
        """Paths of all stored objects."""
        assert isinstance(self.store, LocalStore)
        return sorted(entry["path"] for page in self.store.list() for entry in page)

    def sample(self, name: str, **labels: str) -> float:
        """A metric's value, 0 if there is none."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


def kill(redis: Redis, rig: Rig) -> None:
    """As if the worker had died a while ago: it does nothing more, and its heartbeats lapsed."""
    for run in rig.loop.runs():
        run.closed = True
        redis.delete(run.execution.key)


def cancel(redis: Redis, job_id: str) -> None:
    """What the gateway does to a running job."""
    redis.hset(job_key(job_id), "cancel", "1")
    redis.sadd(CANCELING_KEY, job_id)


def shown_steps(redis: Redis, job_id: str) -> list[int]:
    """The steps that clients were told, oldest first."""
    found = redis.xrange(events_key(job_id)) or []
    return [json.loads(fields[b"data"])["step"] for _, fields in found if fields and fields[b"type"] == b"step"]


def saved_step(redis: Redis, job_id: str) -> int:
    """The step of a job's savepoint, 0 if it has none."""
    return int(redis.hget(state_key(job_id), "step") or 0)


def break_at(redis: Redis, rig: Rig, job_id: str, step: int) -> int:
    """Let `rig` compute up to a savepoint at `step` or later, and die; that savepoint's step."""

    def saved() -> bool:
        rig.settle()
        return saved_step(redis, job_id) >= step

    rig.until(saved)
    kill(redis, rig)
    return saved_step(redis, job_id)
