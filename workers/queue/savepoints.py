"""Savepoints: the state of running jobs in Redis, from which another execution goes on after this one's death.

They are written on a thread of their own, about every 2 s of work, and fenced like events: an execution that lost its
job writes nothing. A state too large for Redis goes to the object storage, and Redis gets its path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import structlog
from obstore.exceptions import BaseError
from redis import Redis
from redis.exceptions import RedisError

from core.redis_errors import forget_replica
from core.storage import Store, delete, state_path, told
from jobs.run import JobRun
from jobs.save import read_saved, save

INLINE_BYTES = 1024 * 1024  # of one image

log = structlog.get_logger()


class Savepoints:
    """Keeps states of run jobs and reads those of resumed ones; `hashes` are the models'."""

    def __init__(
        self, redis: Redis, store: Store, hashes: Mapping[str, str], check_store: Callable[[], None] = lambda: None
    ) -> None:
        self._redis = redis
        self._store = store
        self._hashes = hashes
        self._check_store = check_store  # raises OSError for a mount point without its mount
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="savepoints")

    def submit(self, run: JobRun, data: bytes) -> None:
        """Keep a state soon; `run.saving` until then."""
        run.saving, step = True, run.step
        self._thread.submit(self._write, run, step, data)

    def write(self, run: JobRun, data: bytes) -> None:
        """Keep a state now, behind those that were submitted."""
        self._thread.submit(self._write, run, run.step, data).result()

    def read(self, run: JobRun) -> bytes | None:
        """Read the state that an earlier execution left; None if there is none for this model.

        Raises:
            OSError: Redis or the storage is away.
            obstore.exceptions.BaseError: as above.
        """
        try:
            found = read_saved(self._redis, run.job_id, self._hash(run))
        except RedisError as error:
            raise ConnectionError("redis is away") from error
        return self._fetch(found) if isinstance(found, str) else found

    def close(self) -> None:
        """Wait for what is under way."""
        self._thread.shutdown()

    def _write(self, run: JobRun, step: int, data: bytes) -> None:
        try:
            if not run.closed:
                self._keep(run, step, data)
        except (RedisError, BaseError, OSError) as error:  # the next savepoint is seconds away
            if isinstance(error, RedisError):
                forget_replica(self._redis, error)
            log.warning("savepoint not written", **run.names, error=told(error))
        finally:
            run.saving = False

    def _keep(self, run: JobRun, step: int, data: bytes) -> None:
        large = len(data) > INLINE_BYTES * run.request.num_images
        path = state_path(run.job_id, run.execution.id, step) if large else ""
        if path:
            self._check_store()
            self._store.put(path, data)
        if not save(self._redis, run, step, self._hash(run), path or data):
            return  # another execution has the job and may go on from this very object: the sweep knows
        run.saved_step, run.passed = step, True
        outdated, run.state_path = run.state_path, path
        if outdated not in ("", path):
            delete(self._store, [outdated])

    def _hash(self, run: JobRun) -> str:
        """Name the weights that a state is of."""
        return "+".join(self._hashes[model] for model in run.models)

    def _fetch(self, path: str) -> bytes | None:
        self._check_store()
        try:
            return bytes(self._store.get(path).bytes())
        except FileNotFoundError:
            self._check_store()
            log.warning("a savepoint's object is gone", path=path)
            return None
