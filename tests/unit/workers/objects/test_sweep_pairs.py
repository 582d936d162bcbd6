"""Sweeps of a Redis and a storage that do not belong together, or no longer."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis import Redis
from structlog.testing import capture_logs

from contract.redis_keys import (
    DEPLOYMENT_KEY,
    PROPOSED_KEY,
    SWEEPS_KEY,
)
from core.storage import (
    DEPLOYMENT_OBJECT,
    SWEEPS_OBJECT,
    Store,
    delete,
    image_path,
    open_store,
    upload_path,
)
from jobs.deployment import LOST_SWEEPS, Mount
from tests.enqueue import enqueue, make_request
from tests.unit.workers.objects.sweeping import KEEP_S, RETENTION, end, paths, sweeper
from tests.unit.workers.parts import claim, make_worker
from workers.objects.sweep import Sweeper
from workers.queue.savepoints import INLINE_BYTES, Savepoints


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def orphaned(redis: Redis, store: Store) -> Sweeper:
    """The sweeper of a pair whose storage has an object that no job names, old enough to go."""
    assert sweeper(redis, store).collect() == 0  # makes the pair
    store.put(image_path("unknown", "any", 0, "png"), b"1")
    return sweeper(redis, store, KEEP_S + 1)


def test_a_lost_redis_deletes_nothing_until_it_adopts_the_storage(redis: Redis, store: Store) -> None:
    end(redis, store, "done")
    late, kept = orphaned(redis, store), paths(store)
    redis.flushall()
    enqueue(redis, "new", make_request())
    store.put(upload_path("new", "image", "0" * 64), b"1")
    with capture_logs() as logs:
        assert late.collect() == 0
    assert [(line["log_level"], line["redis_has"]) for line in logs] == [("error", None)]
    assert "docs/reliability.md" in logs[0]["event"]
    assert set(kept) <= set(paths(store))
    redis.set(DEPLOYMENT_KEY, bytes(store.get(DEPLOYMENT_OBJECT).bytes()))  # as docs/reliability.md says
    assert late.collect() == len(kept)
    assert paths(store) == [upload_path("new", "image", "0" * 64)]


def test_another_deployment_s_storage_is_left_alone(redis: Redis, store: Store) -> None:
    late = orphaned(redis, store)
    redis.set(DEPLOYMENT_KEY, "another")
    assert late.collect() == 0
    assert len(paths(store)) == 1


def test_a_storage_without_an_id_is_taken_only_if_empty_or_ours(redis: Redis, store: Store) -> None:
    late = orphaned(redis, store)
    delete(store, [DEPLOYMENT_OBJECT])
    assert late.collect() == 0  # as a bucket that was swapped for another
    end(redis, store, "done")
    assert late.collect() == 1  # as before there were ids
    delete(store, [DEPLOYMENT_OBJECT, *paths(store)])
    assert late.collect() == 0
    assert bytes(store.get(DEPLOYMENT_OBJECT).bytes()) == redis.get(DEPLOYMENT_KEY)


def test_a_mount_point_without_its_mount_is_no_empty_storage(redis: Redis, store: Store) -> None:
    named = Sweeper(redis, store, RETENTION, mounted=True)
    assert named.collect() == 0
    assert bytes(store.get(DEPLOYMENT_OBJECT).bytes()) == redis.get(DEPLOYMENT_KEY), "a new one is paired"
    delete(store, [DEPLOYMENT_OBJECT, SWEEPS_OBJECT])
    with capture_logs() as logs:
        assert named.collect() == 0
    assert logs[0]["event"].startswith("nothing is swept")
    assert not store.list().collect()


def test_a_mount_point_with_our_own_objects_is_not_paired(redis: Redis, store: Store) -> None:
    """As a write that was under way leaves one when the mount goes."""
    named = Sweeper(redis, store, RETENTION, mounted=True)
    assert named.collect() == 0
    delete(store, [DEPLOYMENT_OBJECT, SWEEPS_OBJECT])
    end(redis, store, "a")
    assert named.collect() == 0
    assert DEPLOYMENT_OBJECT not in [entry["path"] for page in store.list() for entry in page]


def test_a_pairing_that_was_cut_short_is_finished(redis: Redis, store: Store) -> None:
    named = Sweeper(redis, store, RETENTION, mounted=True)
    redis.set(PROPOSED_KEY, "half")
    store.put(DEPLOYMENT_OBJECT, b"half")
    assert named.collect() == 0
    assert redis.get(DEPLOYMENT_KEY) == b"half"
    redis.delete(DEPLOYMENT_KEY)  # as who parts a copy of Redis from the storage
    assert named.collect() == 0
    assert not redis.exists(DEPLOYMENT_KEY), "a pairing that was finished isn't made again"


def test_savepoints_arent_put_below_a_mount_point(redis: Redis, store: Store) -> None:
    redis.set(DEPLOYMENT_KEY, "id")
    savepoints = Savepoints(redis, store, {"tiny": "hash"}, Mount(store, redis).check)
    enqueue(redis, "a", make_request())
    run = claim(make_worker(redis))
    savepoints.write(run, bytes(2 * INLINE_BYTES))
    assert paths(store) == []
    store.put(DEPLOYMENT_OBJECT, b"id")
    savepoints.write(run, bytes(2 * INLINE_BYTES))
    assert paths(store) == [run.state_path]
    delete(store, [DEPLOYMENT_OBJECT, run.state_path])
    with pytest.raises(ConnectionError):  # waited for, rather than taken for gone
        savepoints.read(run)
    savepoints.close()


def test_a_sweep_makes_room_where_there_is_none(redis: Redis, store: Store, tmp_path: Path) -> None:
    late = orphaned(redis, store)
    (tmp_path / SWEEPS_OBJECT).unlink()
    (tmp_path / SWEEPS_OBJECT).mkdir()  # it can't be written
    (tmp_path / SWEEPS_OBJECT / "a").write_text("")
    assert late.collect() == 1


def test_an_older_redis_of_the_same_deployment_deletes_nothing(redis: Redis, store: Store) -> None:
    """A copy of yesterday, or a replica that lagged; a sweep or two may be lost in a fail-over."""
    late, now = orphaned(redis, store), LOST_SWEEPS + 2
    redis.set(SWEEPS_KEY, now)
    store.put(SWEEPS_OBJECT, str(now).encode())
    redis.set(SWEEPS_KEY, 1)
    with capture_logs() as logs:
        assert late.collect() == 0
        assert late.collect() == 0
    assert {(line["event"].partition(",")[0], line["storage_has"]) for line in logs} == {
        ("nothing is swept: Redis is older than the storage", now)
    }
    delete(store, [SWEEPS_OBJECT])  # as docs/reliability.md says
    assert late.collect() == 1
    redis.set(SWEEPS_KEY, 7)
    store.put(SWEEPS_OBJECT, str(7 + LOST_SWEEPS).encode())
    assert late.collect() == 0
    assert bytes(store.get(SWEEPS_OBJECT).bytes()) == b"8"
