"""Savepoints: the state of running jobs in Redis, from which another execution goes on after this one's death.

They are written on a thread of their own, about every 2 s of work, and fenced like events: an execution that lost its
job writes nothing. A state too large for Redis goes to the object storage, and Redis gets its path.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog
from obstore.exceptions import BaseError
from redis import Redis
from redis.exceptions import RedisError

from contract.redis_keys import job_key, state_key
from core.storage import Store, delete, state_path
from jobs.run import JobRun

INLINE_BYTES = 1024 * 1024  # of one image
STATE_TTL_S = 86_400

# KEYS: record, state. ARGV: execution, step, model's hash, name and value of the place, TTL. A late writer of the same
# execution doesn't undo a newer state. Passing a savepoint clears the job of its earlier deaths.
KEEP = """
local state = redis.call('HMGET', KEYS[1], 'status', 'execution')
if state[1] ~= 'running' or state[2] ~= ARGV[1] then return 0 end
local before = redis.call('HMGET', KEYS[2], 'execution', 'step')
if before[1] == ARGV[1] and tonumber(before[2]) >= tonumber(ARGV[2]) then return 0 end
redis.call('HDEL', KEYS[1], 'deaths', 'deaths_alone')
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[2], 'execution', ARGV[1], 'step', ARGV[2], 'model', ARGV[3], ARGV[4], ARGV[5])
redis.call('EXPIRE', KEYS[2], ARGV[6])
return 1
"""

log = structlog.get_logger()


class Savepoints:
    """Keeps states of held jobs and reads those of resumed ones; `hashes` are the models'."""

    def __init__(self, redis: Redis, store: Store, hashes: Mapping[str, str]) -> None:
        self._redis = redis
        self._store = store
        self._hashes = hashes
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="savepoints")

    def submit(self, held: JobRun, data: bytes) -> None:
        """Keep a state soon; `held.saving` until then."""
        held.saving, step = True, held.step
        self._thread.submit(self._write, held, step, data)

    def write(self, held: JobRun, data: bytes) -> None:
        """Keep a state now, behind those that were submitted."""
        self._thread.submit(self._write, held, held.step, data).result()

    def read(self, held: JobRun) -> bytes | None:
        """The state that an earlier execution left; None if there is none for this model.

        Raises:
            OSError: Redis or the storage is away.
            obstore.exceptions.BaseError: as above.
        """
        try:
            found: dict[Any, Any] = self._redis.hgetall(state_key(held.job_id))
        except RedisError as error:
            raise ConnectionError("redis is away") from error
        if found.get(b"model") != self._hashes[held.model].encode():
            return None
        return bytes(found[b"data"]) if b"data" in found else self._fetch(found[b"path"].decode())

    def close(self) -> None:
        """Wait for what is under way."""
        self._thread.shutdown()

    def _write(self, held: JobRun, step: int, data: bytes) -> None:
        try:
            if not held.closed and self._keep(held, step, data):
                held.saved_step, held.passed = step, True
        except (RedisError, BaseError, OSError) as error:  # the next savepoint is seconds away
            log.warning("savepoint not written", **held.names, error=type(error).__name__)
        finally:
            held.saving = False

    def _keep(self, held: JobRun, step: int, data: bytes) -> bool:
        large = len(data) > INLINE_BYTES * held.request.num_images
        path = state_path(held.job_id, held.execution.id, step) if large else ""
        if path:
            self._store.put(path, data)
        place: tuple[str, Any] = ("path", path) if path else ("data", data)
        values = (held.execution.id, step, self._hashes[held.model], *place, STATE_TTL_S)
        kept = bool(self._redis.eval(KEEP, 2, job_key(held.job_id), state_key(held.job_id), *values))
        if kept:
            path, held.state_path = held.state_path, path
        if path:  # of a state that is outdated, or was refused
            delete(self._store, [path])
        return kept

    def _fetch(self, path: str) -> bytes | None:
        try:
            return bytes(self._store.get(path).bytes())
        except FileNotFoundError:
            log.warning("a savepoint's object is gone", path=path)
            return None
