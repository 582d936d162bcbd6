"""A Redis and a storage that belong together: a sweep deletes what Redis doesn't name, in a stranger's storage all.

The pair shares an id, a key in Redis and an object in the storage. A worker makes it where the storage has none and is
empty, or holds objects of this Redis's jobs (which is older than these ids, or was used before its first worker came).

A folder that LATENTD_STORAGE_URL names may be a mount point, which without its mount is an empty folder: once Redis has
an id it is neither taken for a new one nor written to.
"""

from __future__ import annotations

import uuid
from contextlib import suppress

import structlog
from obstore.exceptions import AlreadyExistsError, BaseError
from redis import Redis
from redis.exceptions import RedisError

from contract.redis_keys import DEPLOYMENT_KEY, PROPOSED_KEY, SWEEPS_KEY, gone_key, job_key
from core.storage import DEPLOYMENT_OBJECT, SWEEPS_OBJECT, Store
from core.text import as_text

FOLDERS = ("images", "uploads", "states")
LOST_SWEEPS = 2  # that a Redis may know less of after a fail-over, which is no other Redis yet
LOOKED_AT = 500  # objects of each folder, among which one of our jobs is looked for

log = structlog.get_logger()


class Mount:
    """A folder that may be a mount point, and whether it is the one that was paired, if ever one was."""

    def __init__(self, store: Store, redis: Redis) -> None:
        self._store, self._redis = store, redis

    def check(self) -> None:
        """Look.

        Raises:
            ConnectionError: it has lost its id, or Redis is away.
            BaseError, OSError: the storage is away.
        """
        if stored_id(self._store) is not None:
            return
        try:
            paired = self._redis.exists(DEPLOYMENT_KEY)
        except RedisError as error:
            raise ConnectionError("redis is away") from error
        if paired:
            raise ConnectionError("the storage's folder has lost its id, as a mount point without its mount")


def belong_together(redis: Redis, store: Store, *, mounted: bool = False) -> bool:
    """Tell whether this Redis may judge the objects of this storage; if not, one error line says what to do.

    mounted: it may be a mount point: one without an id isn't paired anew.

    Raises:
        RedisError, BaseError, OSError: one of them is away.
    """
    theirs, ours = stored_id(store), _own_id(redis)
    if _may_pair(redis, store, theirs, ours, mounted=mounted):
        _pair(redis, store)
        theirs, ours = stored_id(store), _own_id(redis)
    if theirs is not None and theirs == ours:
        return True
    log.error(
        "nothing is swept: Redis and storage are of different deployments, or one was lost; the chapter on pairs in "
        "docs/reliability.md says how to go on",
        redis_has=ours,
        storage_has=theirs,
    )
    return False


def count_sweep(redis: Redis, store: Store) -> bool:
    """Note a sweep in both. False, with an error line, where Redis knows less of them than the storage.

    Such a Redis is an older one, restored or a replica that lagged: it doesn't name what was made since.

    Raises:
        RedisError, BaseError, OSError: one of them is away.
    """
    known, seen = int(redis.get(SWEEPS_KEY) or 0), int(_read(store, SWEEPS_OBJECT) or 0)
    if seen > known + LOST_SWEEPS:
        log.error(
            "nothing is swept: Redis is older than the storage, or was restored; the chapter on pairs in "
            "docs/reliability.md says how to go on",
            redis_has=known,
            storage_has=seen,
        )
        return False
    count = str(redis.incr(SWEEPS_KEY)).encode()
    with suppress(BaseError, OSError):  # a full one gets room by the sweep; one that is away says so in it
        store.put(SWEEPS_OBJECT, count)
    return True


def _pair(redis: Redis, store: Store) -> None:
    """Give both the same id. Of several workers one wins in each place; another deployment's may win the storage.

    The storage has it before Redis counts it as shared: a Redis that does knows that its storage had one.
    """
    redis.set(PROPOSED_KEY, uuid.uuid4().hex, nx=True)
    proposed = _own_id(redis) or as_text(redis.get(PROPOSED_KEY) or b"")
    with suppress(AlreadyExistsError):
        store.put(DEPLOYMENT_OBJECT, proposed.encode(), mode="create")
    if stored_id(store) == proposed:
        redis.set(DEPLOYMENT_KEY, proposed, nx=True)
        redis.delete(PROPOSED_KEY)  # a pairing that was cut short is finished by it, and no other


def _own_id(redis: Redis) -> str | None:
    found = redis.get(DEPLOYMENT_KEY)
    return None if found is None else as_text(found)


def stored_id(store: Store) -> str | None:
    """Read the storage's half of the pair; None if it has none.

    Raises:
        BaseError, OSError: the storage is away.
    """
    return _read(store, DEPLOYMENT_OBJECT)


def _read(store: Store, path: str) -> str | None:
    try:
        return bytes(store.get(path).bytes()).decode().strip()
    except FileNotFoundError:
        return None


def _may_pair(redis: Redis, store: Store, theirs: str | None, ours: str | None, *, mounted: bool) -> bool:
    """Tell whether a storage without an id is empty, or ours; or has the one that this Redis was about to share."""
    if theirs is not None:
        return ours is None and theirs == as_text(redis.get(PROPOSED_KEY) or b"")
    if ours is not None and mounted:
        return False
    jobs = {job_id for folder in FOLDERS for job_id in _some_jobs(store, folder)}
    with redis.pipeline(transaction=False) as pipe:
        for job_id in jobs:
            pipe.exists(job_key(job_id), gone_key(job_id))
        return not jobs or any(pipe.execute())


def _some_jobs(store: Store, folder: str) -> set[str]:
    page = next(iter(store.list(folder, chunk_size=LOOKED_AT)), [])
    return {entry["path"].split("/")[1] for entry in page if entry["path"].count("/") > 1}
