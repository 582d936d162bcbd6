"""Which job a worker claims next."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from redis import Redis

from contract.base import LANES
from contract.common import Numerics
from contract.redis_keys import wake_key
from jobs.claim import Claimer, Holdings
from jobs.run import JobRun
from jobs.stored_job import LaneQueue, lane_queue
from jobs.worker import BatchWorker
from workers.claim_policy import REST_S, ClaimOrder, ModelLane


class Claims:
    """Claims jobs of some models for one worker, interactive before bulk, the models in turn."""

    def __init__(
        self,
        worker: BatchWorker,
        redis: Redis,
        models: Sequence[str],
        numerics: Mapping[str, Numerics],
        holdings: Holdings | None = None,
    ) -> None:
        self._redis = redis
        self._holdings = holdings or Holdings()
        self._claimer = Claimer(worker, redis)
        self._numerics = numerics
        self._order = ClaimOrder(list(models))
        queues = {(model, lane): lane_queue(redis, model, lane) for model in models for lane in LANES}
        self.queues: dict[str, LaneQueue] = {queue.key: queue for queue in queues.values()}
        self._keys = {lane: queue.key for lane, queue in queues.items()}
        self._models = {queue.key: model for (model, _), queue in queues.items()}
        self._wakes = [wake_key(queue.name) for queue in queues.values()]

    def next(
        self, lanes: Collection[ModelLane], cold: Collection[str] = (), at_most: int | None = None
    ) -> JobRun | None:
        """Start the next job of one of these models and lanes here, those of `cold` models last; None if none waits.

        at_most: how many jobs are looked at where others run meanwhile: a whole queue may be for other workers.

        Raises:
            RedisError: if Redis is away; a job popped meanwhile returns by the reaper.
        """
        looked = 0
        while looked != at_most and (popped := self._pop(lanes, cold)) is not None:
            looked += 1
            key, job_id = popped
            run = self._take(self.queues[key], job_id)
            if run is not None:
                self._order.took(run.model)
                return run
        return None

    def rest(self) -> None:
        """Wait until a job comes into one of the queues, REST_S at most: one that no entry tells of is found then.

        Raises:
            RedisError: if Redis is away.
        """
        self._redis.blpop(self._wakes, timeout=REST_S)

    def _pop(self, lanes: Collection[ModelLane], cold: Collection[str]) -> tuple[str, str] | None:
        return self._claimer.pop([self._keys[lane] for lane in self._order.of(lanes, cold)])

    def _take(self, queue: LaneQueue, job_id: str) -> JobRun | None:
        return self._claimer.start(queue, job_id, self._numerics[self._models[queue.key]], self._holdings)
