"""What has been kept long enough goes: objects, ids in lists, what dead executions left. Keys expire by themselves.

Every worker runs a sweeper on a thread of its own; a lock in Redis lets one of them through in each interval.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog
from obstore.exceptions import BaseError
from obstore.store import LocalStore
from redis import Redis

from contract.job import TERMINAL, JobResult
from contract.redis_keys import job_key, state_key, sweeping_key
from core.clock import CLOCK
from core.errors import NewerRelease
from core.storage import FOLDERS, Store, delete, tidy, told
from core.text import as_text
from jobs.deployment import belong_together, count_sweep, stored_id
from jobs.end import Retention
from jobs.expire import expired, forget
from workers.queue.circuit_breaker import CircuitBreaker

PAGE = 500
# On S3, where a job takes half a dozen round trips: one after the other that is a few jobs a second.
FORGETTING_THREADS = 8
LONGEST_INTERVAL_S = 60.0
YOUNG_S = 600.0  # objects are written before the keys that name them
ORPHANS_EVERY_S = 3600.0  # the whole storage is listed for them

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Stored:
    """An object, as its path names it."""

    path: str
    folder: str
    job_id: str
    execution: str  # empty for uploads
    modified: float


class Sweeper:
    """Removes what expired jobs and dead executions left."""

    def __init__(
        self,
        redis: Redis,
        store: Store,
        retention: Retention,
        clock: Callable[[], float] = CLOCK.unix,
        files_clock: Callable[[], float] = time.time,
        *,
        mounted: bool = False,
    ) -> None:
        self._redis = redis
        self._store = store
        self._retention = retention
        self._clock = clock
        self._files_clock = files_clock  # what stamped them, mostly
        self._mounted = mounted  # the storage may be a mount point without its mount
        self._kept: dict[str, str] = {}  # what the storage doesn't let go → its error
        self.done = threading.Event()  # what isn't swept by then is left to the next sweep

    def expire(self) -> int:
        """Forget jobs whose records have expired, and delete their objects; how many.

        An object that can't be deleted stops no job: it becomes an orphan, which `collect` tries again.

        Raises:
            BaseError, OSError: the storage is away.
        """
        start, found = 0, 0
        with ThreadPoolExecutor(FORGETTING_THREADS, "forgetting") as pool:
            several = map if isinstance(self._store, LocalStore) else pool.map
            while True:
                ids, looked_at = expired(self._redis, self._retention, self._clock(), start)
                if not looked_at:
                    break
                found += sum(several(self._forget, ids))
                if self.done.is_set():
                    return found
                start += looked_at - len(ids)
        self._tell_kept()
        return found

    def _forget(self, job_id: str) -> bool:
        """Delete the objects first, so that a crash leaves the id to the next sweep; False once the sweep is to end."""
        if self.done.is_set():
            return False
        for folder in FOLDERS:
            with self._noting(f"{folder}/{job_id}"):
                self._delete([str(entry["path"]) for page in self._store.list(f"{folder}/{job_id}") for entry in page])
        forget(self._redis, self._retention, job_id)
        return True

    def collect(self) -> int:
        """Delete objects that no job names: of jobs that are gone, of executions and puts that died; how many.

        Nothing where this Redis and this storage don't belong together.

        Raises:
            BaseError, OSError: the storage is away.
        """
        if not belong_together(self._redis, self._store, mounted=self._mounted):
            return 0
        if not count_sweep(self._redis, self._store):
            return 0
        oldest = self._files_clock() - min(YOUNG_S, self._retention.keep_s)
        found = tidy(self._store, oldest)
        for folder in FOLDERS:
            for page in self._pages(folder):
                if self.done.is_set():
                    return found
                found += self._delete(self._orphans([one for one in _parse(page) if one.modified <= oldest]))
        self._tell_kept()
        return found

    def _pages(self, folder: str) -> Iterator[Sequence[Any]]:
        """Yield what is below a folder; on a disk, where one job's folder may be closed, job by job."""
        places = [folder]
        if isinstance(self._store, LocalStore):
            with self._noting(folder):
                places = list(self._store.list_with_delimiter(folder)["common_prefixes"])
        for place in places:
            with self._noting(place):
                yield from self._store.list(place, chunk_size=PAGE)

    def _delete(self, paths: Sequence[str]) -> int:
        """Delete objects, each by itself where together they can't be; how many went."""
        if not paths:
            return 0
        with suppress(BaseError, OSError):
            delete(self._store, paths)
            return len(paths)
        return sum(self._delete_one(path) for path in paths)

    def _delete_one(self, path: str) -> bool:
        with self._noting(path):
            delete(self._store, [path])
        return path not in self._kept

    @contextmanager
    def _noting(self, path: str) -> Iterator[None]:
        """Note what the storage refuses at `path` and go on, if it answers at all."""
        try:
            yield
        except (BaseError, OSError) as error:
            stored_id(self._store)  # raises if it is away
            self._kept[path] = told(error)

    def _tell_kept(self) -> None:
        """Once a sweep, however many they are."""
        if self._kept:
            path, error = next(iter(self._kept.items()))
            log.warning("objects can't be deleted, tried again hourly", count=len(self._kept), first=path, error=error)
        self._kept.clear()

    def _orphans(self, found: Sequence[Stored]) -> list[str]:
        ids = list(dict.fromkeys(one.job_id for one in found))
        with self._redis.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hmget(job_key(job_id), ["status", "result"])
                pipe.hget(state_key(job_id), "path")
            answers = pipe.execute()
        states = {job_id: (*answers[2 * k], answers[2 * k + 1]) for k, job_id in enumerate(ids)}
        return [one.path for one in found if not _named(one, *states[one.job_id])]


def _named(stored: Stored, status: bytes | None, result: bytes | None, state_path: bytes | None) -> bool:
    """Tell whether the job that an object belongs to still needs it."""
    if status is None:
        return False
    if stored.folder == "uploads":
        return True
    if stored.folder == "states":
        return state_path is not None and as_text(state_path) == stored.path
    if result is not None:
        return _results(result, stored.execution)
    return as_text(status) not in TERMINAL


def _results(result: bytes, execution: str) -> bool:
    """Tell whether a result names the objects of this execution; of a newer release's nothing is deleted."""
    try:
        return JobResult.read(result).execution == execution
    except NewerRelease:
        return True


def _parse(page: Iterable[Any]) -> list[Stored]:
    """Parse the objects of a listing's page; those that aren't ours are left alone."""
    found = []
    for entry in page:
        folder, _, rest = str(entry["path"]).partition("/")
        job_id, _, rest = rest.partition("/")
        execution = rest.partition("/")[0] if folder != "uploads" else ""
        modified: datetime = entry["last_modified"]
        if rest:
            found.append(Stored(entry["path"], folder, job_id, execution, modified.astimezone(UTC).timestamp()))
    return found


class Sweeping(threading.Thread):
    """Runs a sweeper at once and every quarter of the retention, a minute at most; nothing that happens stops it."""

    def __init__(self, redis: Redis, sweeper: Sweeper, retention: Retention) -> None:
        super().__init__(name="sweeping", daemon=True)
        self._redis = redis
        self._sweeper = sweeper
        self._interval = min(LONGEST_INTERVAL_S, max(1.0, retention.keep_s / 4))
        self._orphans_every = min(ORPHANS_EVERY_S, max(LONGEST_INTERVAL_S, retention.keep_s))
        self._done = sweeper.done

    def run(self) -> None:
        breaker = CircuitBreaker(redis=self._redis)
        while not self._done.is_set():
            try:
                breaker.attempt(self.turn)
            except Exception:  # objects and ids of expired jobs would stay for ever, and nobody would be told
                log.exception("sweep failed")
            self._done.wait(self._interval)

    def stop(self) -> None:
        """Stop and wait for the thread."""
        self._done.set()
        if self.is_alive():
            self.join()

    def turn(self) -> None:
        """Sweep, if no other worker does.

        Raises:
            RedisError: if Redis is away.
        """
        self._sweep("expired", self._interval, self._sweeper.expire)
        self._sweep("orphans", self._orphans_every, self._sweeper.collect)

    def _sweep(self, what: str, every_s: float, sweep: Callable[[], int]) -> None:
        try:
            if self._may(what, every_s) and (count := sweep()):
                log.info("swept", what=what, count=count)
        except (BaseError, OSError) as error:
            log.warning("sweep put off: storage is away", what=what, error=told(error))

    def _may(self, what: str, every_s: float) -> bool:
        """Tell whether this worker is the first of this interval, a little shorter than the wait between turns."""
        return bool(self._redis.set(sweeping_key(what), "1", nx=True, px=int(900 * every_s)))
