"""One thread that keeps the worker, its executions and what it serves alive, and has swept up after dead workers.

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

from contract.redis_keys import processes_key, refused_key, serving_key, serving_member
from core.clock import CLOCK
from jobs.run import JobRun
from jobs.worker import HEARTBEAT_TTL_S, BatchWorker
from workers.metrics.step_times import write_cells
from workers.queue.circuit_breaker import CircuitBreaker
from workers.queue.process_identity import machine, own_identity
from workers.queue.reaper import Reaper

BEAT_S = 4.0  # three beats fit into the TTL
REVIVAL_S = 10.0  # after an outage everybody's beats have lapsed; every worker has tried again by then
SWEEP_S = 5.0
SWEPT_S = 1.0  # that a stop waits for a sweep; one that is cut off goes on elsewhere
HUNG_EXIT = 70  # EX_SOFTWARE
PROCESSES_TTL_S = 60  # executions of a machine whose workers are all gone have lapsed by then

log = structlog.get_logger()


class Heartbeat(threading.Thread):
    """Beats every 4 s for what `models`, `runs` and `times` answer at that moment.

    It ends the process once the loop has been in one round for longer than `hang_s`. A Redis that forgot the worker is
    shown by `show` what it has.
    """

    def __init__(
        self,
        worker: BatchWorker,
        redis: Redis,
        reaper: Reaper,
        models: Callable[[], Sequence[str]],
        device_kind: str,
        runs: Callable[[], Sequence[JobRun]],
        times: Callable[[], Mapping[str, Mapping[str, float]]],
        round_s: Callable[[], float] = lambda: 0.0,
        hang_s: float = math.inf,
        show: Callable[[Redis], None] = lambda _: None,
    ) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._worker = worker
        self._redis = redis
        self._reaper = reaper
        self._models = models
        self._member = serving_member(worker.name, device_kind)
        self._runs = runs
        self._times = times
        self._round_s = round_s
        self._hang_s = hang_s
        self._show, self._shown = show, True
        self._done = threading.Event()
        self._beat_due = self._sweep_due = 0.0
        self._sweeping = threading.Event()  # wanted or under way
        self._sweeper = threading.Thread(target=self._sweep, name="reaper", daemon=True)

    def run(self) -> None:
        """Beat and let sweep until stopped; while Redis is away, try again with backoff."""
        breaker = CircuitBreaker(redis=self._redis)
        while not self._done.is_set():
            try:
                self.turn(breaker)
            except Exception:  # without a heart every job of this worker would run a second time
                log.exception("heartbeat failed")
            self._done.wait(0.1)

    def turn(self, breaker: CircuitBreaker) -> None:
        """Do what is due; a sweep on a thread of its own, as thousands of jobs may have ended late in an outage."""
        if self._round_s() > self._hang_s:
            self._end_process()
        now = time.monotonic()
        if now >= self._beat_due:
            alive = breaker.attempt(self._alive)
            self._beat_due = now + BEAT_S if alive else now
            # Else who is back first would take the jobs of the others for those of dead workers.
            self._sweep_due = self._sweep_due if alive else now + REVIVAL_S
        if now >= self._sweep_due and not self._sweeping.is_set():
            self._sweep_due = now + SWEEP_S
            if not self._sweeper.is_alive():
                self._sweeper.start()
            self._sweeping.set()

    def _sweep(self) -> None:
        breaker = CircuitBreaker(redis=self._redis)
        while not self._done.is_set():
            self._sweeping.wait()
            if self._done.is_set():
                return
            try:
                breaker.attempt(self._reaper.turn)
            except Exception:  # the next may find what this one stumbled over gone
                log.exception("sweep failed")
            self._sweeping.clear()

    def _end_process(self) -> None:
        """End as by `kill -9`: a hung device lets nothing be saved or handed back, and one of the jobs may be to blame:
        whoever finds them counts a death with them."""
        jobs = [run.job_id for run in self._runs()]
        log.critical("the loop hangs: the process ends, its jobs go on elsewhere", seconds=self._hang_s, jobs=jobs)
        os._exit(HUNG_EXIT)

    def stop(self) -> None:
        """Stop beating and wait for the thread."""
        self._done.set()
        if self.is_alive():
            self.join()
        self._sweeping.set()
        if self._sweeper.is_alive():
            self._sweeper.join(SWEPT_S)

    def _alive(self) -> bool:
        self.beat()
        if not self._shown:
            self._show(self._redis)
            self._shown = True
        return True

    def beat(self) -> None:
        """Renew everything for 15 s in one round trip; lapsed executions are not revived.

        Raises:
            RedisError: if Redis is away.
        """
        CLOCK.sync(self._redis)
        if self._worker.beat(self._redis, list(self._runs()), self._serve):
            self._shown = False

    def _serve(self, pipe: Pipeline) -> None:
        moment = int(CLOCK.unix())
        if identity := own_identity():
            pipe.hset(processes_key(machine()), self._worker.name, identity)
            pipe.expire(processes_key(machine()), PROCESSES_TTL_S)
        pipe.expire(refused_key(self._worker.name), HEARTBEAT_TTL_S)
        for model in self._models():
            pipe.zadd(serving_key(model), {self._member: moment + HEARTBEAT_TTL_S})
            pipe.zremrangebyscore(serving_key(model), 0, moment)
        for model, cells in self._times().items():
            write_cells(pipe, model, cells)
