"""A Redis and a storage that belong together: a sweep deletes what Redis doesn't name, in a stranger's storage all.

The pair shares an id, a key in Redis and an object in the storage. Who comes first makes it where the storage has none
and is empty, or holds objects of this Redis's jobs (which is older than these ids).

A folder that LATENTD_STORAGE_URL names may be a mount point, which without its mount is an empty folder: once Redis has
an id it is neither taken for a new one nor written to.

Gateways and workers say, as long as they run, that they see the pair's storage. Who has another one meanwhile is on
another machine, with a folder of its own: no client would get what it stores.
"""

from __future__ import annotations

import threading
import time
import uuid
from contextlib import suppress

import structlog
from obstore.exceptions import AlreadyExistsError, BaseError
from redis import Redis
from redis.exceptions import RedisError, ResponseError

from contract.redis_keys import DEPLOYMENT_KEY, PROPOSED_KEY, SEEN_KEY, SWEEPS_KEY, gone_key, job_key
from core.errors import ConfigurationError
from core.redis_errors import forget_replica
from core.settings import Settings
from core.storage import DEPLOYMENT_OBJECT, FOLDERS, SWEEPS_OBJECT, Store, create, may_be_unmounted
from core.text import as_text
from jobs.layout import check_layout

LOST_SWEEPS = 2  # that a Redis may know less of after a fail-over, which is no other Redis yet
LOOKED_AT = 500  # objects of each folder, among which one of our jobs is looked for
SEEN_S, SAID_EVERY_S = 30, 10.0  # for how long it counts that somebody has seen the storage, and how often it is said
LOOK_S = 0.2

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


class Witness(threading.Thread):
    """Says in Redis, as long as the process runs, that it sees the storage of the pair."""

    def __init__(self, settings: Settings, redis: Redis, store: Store, every_s: float = SAID_EVERY_S) -> None:
        super().__init__(name="witness", daemon=True)
        self._settings, self._redis, self._store, self._every_s = settings, redis, store, every_s
        self._met = self._told = False
        self._said: bytes | str | None = None  # last, by those who see another storage
        self._done = threading.Event()

    def run(self) -> None:
        """Say it until stopped; while Redis or the storage is away, nobody is told."""
        while not self._done.is_set():
            with suppress(RedisError, BaseError, OSError, ConfigurationError):  # of the last, others tell
                self._turn()
            self._done.wait(self._every_s)

    def stop(self) -> None:
        """Stop, without waiting for a storage that hangs."""
        self._done.set()

    def _turn(self) -> None:
        settings, redis, store = self._settings, self._redis, self._store
        if not self._met:
            check_layout(redis)  # Redis may have come later than this process
            self._met = True
        said = None if see(settings, redis, store) else _said_elsewhere(settings, redis, store)
        again = said is not None and self._said not in (None, said)  # not by one that has stopped a moment ago
        if again and not self._told:
            log.error(_refusal(settings).detail)
        self._told, self._said = said is not None and (again or self._told), said


def claim(settings: Settings, redis: Redis, store: Store) -> None:
    """Pair a storage, or make sure that it is the one that others use.

    Where it has lost its id, all who had seen it may have stopped a moment ago: it is waited until one says so again,
    or that is forgotten.

    Raises:
        ConfigurationError: gateways and workers that run have another one.
        RedisError, BaseError, OSError: one of them is away.
    """
    first = None
    while not see(settings, redis, store):
        said = _said_elsewhere(settings, redis, store)
        if said is None:  # since a moment ago
            see(settings, redis, store)
            return
        if first is not None and said != first:
            raise _refusal(settings)
        if first is None:
            log.info(
                "waiting until another process says that it sees the storage, or none has for a while", up_to_s=SEEN_S
            )
        first = said
        time.sleep(LOOK_S)


def see(settings: Settings, redis: Redis, store: Store) -> bool:
    """Pair a storage that may be; say in Redis that it was seen if it is the pair's, and tell whether it is.

    Raises:
        RedisError, BaseError, OSError: one of them is away.
    """
    theirs, ours = _both_ids(redis, store, mounted=may_be_unmounted(settings.storage_url, store))
    if found := theirs is not None and theirs == ours:
        try:
            redis.set(SEEN_KEY, uuid.uuid4().hex, ex=SEEN_S)
        except ResponseError as error:  # a full Redis, or a replica, takes none
            forget_replica(redis, error)
    return found


def _said_elsewhere(settings: Settings, redis: Redis, store: Store) -> bytes | str | None:
    """What was said last by those who see the pair's storage, where this one isn't it; None if nobody has of late."""
    theirs = stored_id(store)
    unmounted = theirs is None and may_be_unmounted(settings.storage_url, store)  # `Mount` has those wait
    return redis.get(SEEN_KEY) if theirs != _own_id(redis) and not unmounted else None


def _refusal(settings: Settings) -> ConfigurationError:
    return ConfigurationError(
        f"{settings.storage} isn't where the other gateways and workers of this Redis keep pictures, so that nobody"
        " would get those from here: set LATENTD_STORAGE_URL to theirs, a folder that all share or s3://bucket/prefix",
        field="LATENTD_STORAGE_URL",
        value=settings.storage,
        bound="the storage that they use",
    )


def belong_together(redis: Redis, store: Store, *, mounted: bool = False) -> bool:
    """Tell whether this Redis may judge the objects of this storage; if not, one error line says what to do.

    mounted: it may be a mount point: one without an id isn't paired anew.

    Raises:
        RedisError, BaseError, OSError: one of them is away.
    """
    theirs, ours = _both_ids(redis, store, mounted=mounted)
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


def _both_ids(redis: Redis, store: Store, *, mounted: bool) -> tuple[str | None, str | None]:
    """The storage's and Redis's, once they are paired if they may be."""
    theirs, ours = stored_id(store), _own_id(redis)
    if not _may_pair(redis, store, theirs, ours, mounted=mounted):
        return theirs, ours
    if ours is not None:
        log.warning("a storage without an id gets the one of this Redis, whose other storage nobody sees any more")
    _pair(redis, store)
    return stored_id(store), _own_id(redis)


def _pair(redis: Redis, store: Store) -> None:
    """Give both the same id. Of several processes one wins in each place; another deployment's may win the storage.

    The storage has it before Redis counts it as shared: a Redis that does knows that its storage had one.
    """
    redis.set(PROPOSED_KEY, uuid.uuid4().hex, nx=True)
    proposed = _own_id(redis) or as_text(redis.get(PROPOSED_KEY) or b"")
    if not proposed:  # another has paired between the two looks
        return
    with suppress(AlreadyExistsError):
        create(store, DEPLOYMENT_OBJECT, proposed.encode())
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
    if ours is not None and (mounted or redis.exists(SEEN_KEY)):
        return False
    jobs = {job_id for folder in FOLDERS for job_id in _some_jobs(store, folder)}
    with redis.pipeline(transaction=False) as pipe:
        for job_id in jobs:
            pipe.exists(job_key(job_id), gone_key(job_id))
        return not jobs or any(pipe.execute())


def _some_jobs(store: Store, folder: str) -> set[str]:
    page = next(iter(store.list(folder, chunk_size=LOOKED_AT)), [])
    return {entry["path"].split("/")[1] for entry in page if entry["path"].count("/") > 1}
