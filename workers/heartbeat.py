"""One thread that keeps all held executions, the worker and what it serves alive, and sweeps up after dead workers.

It has its own connection, so that neither a long UNet call nor a blocked command elsewhere stops it.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import structlog
from redis import Redis
from redis.client import Pipeline
from redis.typing import EncodableT, FieldT
from rq.utils import current_timestamp, now
from rq.worker.base import BaseWorker
from rq.worker_registration import register

from contract.redis_keys import places_key, serving_key, serving_member
from jobs.run import JobRun
from workers.metrics.step_times import write_cells
from workers.queue.circuit_breaker import CircuitBreaker
from workers.queue.claims import HEARTBEAT_TTL_S
from workers.queue.process_identity import machine, my_place
from workers.queue.reaper import Reaper

BEAT_S = 4.0  # three beats fit into the TTL
SWEEP_S = 5.0
HUNG_EXIT = 70  # EX_SOFTWARE
PLACES_TTL_S = 60  # executions of a machine whose workers are all gone have lapsed by then

log = structlog.get_logger()


class Heartbeat(threading.Thread):
    """Beats every 4 s for what `held` and `times` answer at that moment.

    It ends the process once the loop has been in one round for longer than `hang_s`.
    """

    def __init__(
        self,
        worker: BaseWorker,
        redis: Redis,
        reaper: Reaper,
        models: Sequence[str],
        device_kind: str,
        held: Callable[[], Sequence[JobRun]],
        times: Callable[[], Mapping[str, Mapping[str, float]]],
        round_s: Callable[[], float] = lambda: 0.0,
        hang_s: float = math.inf,
    ) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._worker = worker
        self._redis = redis
        self._reaper = reaper
        self._models = models
        self._member = serving_member(worker.name, device_kind)
        self._held = held
        self._times = times
        self._round_s = round_s
        self._hang_s = hang_s
        self._done = threading.Event()
        self._beat_due = self._sweep_due = 0.0

    def run(self) -> None:
        """Beat and sweep until stopped; while Redis is away, try again with backoff."""
        link = CircuitBreaker()
        while not self._done.is_set():
            try:
                self._turn(link)
            except Exception:  # without a heart every job of this worker would run a second time
                log.exception("heartbeat failed")
            self._done.wait(0.1)

    def _turn(self, link: CircuitBreaker) -> None:
        """What is due, each on its own: a sweep that fails doesn't stop the heart."""
        if self._round_s() > self._hang_s:
            self._end_process()
        now = time.monotonic()
        if now >= self._beat_due and link.attempt(self._alive):
            self._beat_due = now + BEAT_S
        if now >= self._sweep_due:
            self._sweep_due = now + 1.0 if link.away else now + SWEEP_S
            link.attempt(self._reaper.turn)

    def _end_process(self) -> None:
        """As `kill -9`: a device that hangs lets nothing be saved or handed back, and one of the jobs may be to blame:
        whoever finds them counts a death with them."""
        jobs = [held.job_id for held in self._held()]
        log.critical("the loop hangs: the process ends, its jobs go on elsewhere", seconds=self._hang_s, jobs=jobs)
        os._exit(HUNG_EXIT)

    def stop(self) -> None:
        """Stop beating and wait for the thread."""
        self._done.set()
        if self.is_alive():
            self.join()

    def _alive(self) -> bool:
        self.beat()
        return True

    def beat(self) -> None:
        """One round trip that renews everything for 15 s; lapsed executions are not revived.

        Raises:
            RedisError: if Redis is away.
        """
        held = list(self._held())
        with self._redis.pipeline() as pipe:
            self._worker.heartbeat(HEARTBEAT_TTL_S, pipeline=pipe)
            self._serve(pipe)
            beats = [self._beat_for(pipe, one) for one in held]
            answers = pipe.execute()
            if answers[0]:  # the hash had lapsed: HSET made it anew
                self._register(pipe)
            for one, beat in zip(held, beats, strict=True):
                if answers[beat]:  # as above, but the job is gone
                    pipe.delete(one.job.key)
            pipe.execute()

    def _beat_for(self, pipe: Pipeline, held: JobRun) -> int:
        """Renew one execution; the place of the job's HSET among the answers."""
        held.execution.heartbeat(held.job.started_job_registry, HEARTBEAT_TTL_S, pipe)
        held.job.heartbeat(now(), HEARTBEAT_TTL_S, pipeline=pipe)
        return len(pipe) - 1

    def _serve(self, pipe: Pipeline) -> None:
        moment = current_timestamp()
        if place := my_place():
            pipe.hset(places_key(machine()), self._worker.name, place)
            pipe.expire(places_key(machine()), PLACES_TTL_S)
        for model in self._models:
            pipe.zadd(serving_key(model), {self._member: moment + HEARTBEAT_TTL_S})
            pipe.zremrangebyscore(serving_key(model), 0, moment)
        for model, cells in self._times().items():
            write_cells(pipe, model, cells)

    def _register(self, pipe: Pipeline) -> None:
        pipe.hset(self._worker.key, mapping=self._shown())
        pipe.expire(self._worker.key, HEARTBEAT_TTL_S)
        register(self._worker, pipe)

    def _shown(self) -> dict[FieldT, EncodableT]:
        return {**self._worker.serialize(), "state": self._worker.get_state()}
