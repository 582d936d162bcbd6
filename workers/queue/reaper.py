"""Who finds jobs whose worker died, when, and in which queues; what becomes of them is in jobs.recover.

RQ itself leaves a job that was popped but never claimed for up to 20 minutes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import structlog
from redis import Redis

from core.text import as_text
from jobs.end import Retention
from jobs.expire import end_late
from jobs.recover import abandoned, clean_registries, lapsed, recover, started_entries
from jobs.requeue import requeue_unclaimed
from jobs.stored_job import LaneQueue
from workers.queue.leases import Leases
from workers.queue.process_identity import find_orphans

STUCK_S = 5.0  # a claim takes milliseconds
DEADLINES = "deadlines"  # the lease beside those of queues

log = structlog.get_logger()


class Reaper:
    """Cleans the registries of some queues, for the worker of this name."""

    def __init__(
        self,
        redis: Redis,
        queues: Iterable[LaneQueue],
        retention: Retention,
        worker: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = redis
        self._queues = list(queues)
        self._retention = retention
        self._leases = Leases(redis, worker)
        self._clock = clock
        self._first_seen: dict[tuple[str, str], float] = {}  # (queue key, job id) in an intermediate list → when

    def turn(self) -> int:
        """Do what is this worker's now: jobs of dead neighbours, which needn't wait for their lapse; and all else in
        queues that no other worker sweeps, those of models that nobody serves any more too. How many jobs were queued
        again.

        Raises:
            RedisError: if Redis is away.
        """
        found = self._reap_neighbours()
        led = self._leases.take([*(queue.name for queue in self._queues), DEADLINES])
        found += sum(self.sweep(queue) for queue in self._queues if queue.name in led)
        if DEADLINES in led:
            found += sum(self.sweep(queue) for queue in abandoned(self._redis))
            self.end_late()
        return found

    def sweep(self, queue: LaneQueue) -> int:
        """Clean a queue; how many jobs of dead workers were queued again. Any number of workers may do so at once.

        Jobs that killed three workers while nothing ran beside them end here.

        Raises:
            RedisError: if Redis is away.
        """
        entries = lapsed(self._redis, started_entries(self._redis, queue))
        found = sum(recover(self._redis, queue, entry, self._retention, orphaned=False) for entry in entries)
        self._return_unclaimed(queue)
        clean_registries(self._redis, queue)
        return found

    def end_late(self) -> None:
        """End jobs whose deadline passed while they waited.

        Raises:
            RedisError: if Redis is away.
        """
        end_late(self._redis, self._retention)

    def _reap_neighbours(self) -> int:
        orphans = find_orphans(self._redis)
        if not orphans:
            return 0
        entries = [
            (queue, entry)
            for queue in self._queues
            for entry in started_entries(self._redis, queue)
            if entry in orphans
        ]
        return sum(recover(self._redis, queue, entry, self._retention, orphaned=True) for queue, entry in entries)

    def _return_unclaimed(self, queue: LaneQueue) -> None:
        """Put ids back that were popped a while ago and never claimed."""
        now, key = self._clock(), queue.intermediate_queue_key
        popped = {(key, as_text(job_id)) for job_id in self._redis.lrange(key, 0, -1)}
        gone = [entry for entry in self._first_seen if entry[0] == key and entry not in popped]
        for entry in gone:
            del self._first_seen[entry]
        for entry in popped:
            stuck = now - self._first_seen.setdefault(entry, now) > STUCK_S
            if stuck and requeue_unclaimed(self._redis, queue, entry[1]):
                log.warning("job popped but never started, queued again", job_id=entry[1])
