from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import MutableMapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from obstore.store import S3Store
from redis import Redis
from rq.utils import as_text
from structlog.testing import capture_logs

from contract.redis_keys import (
    JOBS_KEY,
    gone_key,
    idempotency_key,
    job_key,
    list_key,
    state_key,
    sweeping_key,
)
from core.errors import JobFailed
from core.storage import (
    Store,
    delete,
    image_path,
    open_store,
    state_path,
    tidy,
    upload_path,
)
from jobs.end import Failed, HandedBack, Publisher, Retention
from tests.enqueue import enqueue, make_request
from tests.powers import as_an_ordinary_user
from tests.unit.workers.parts import claim, make_worker
from workers.objects.sweep import Sweeper, Sweeping

if TYPE_CHECKING:
    from obstore.store import ClientConfig
from tests.unit.workers.objects.sweeping import KEEP_S, RETENTION, end, paths, sweeper


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def test_an_expired_job_leaves_nothing_but_its_410(redis: Redis, store: Store) -> None:
    run = end(redis, store, "a")
    other = end(redis, store, "b")
    assert sweeper(redis, store).expire() == 0
    for key in (job_key("a"), "latentd:events:a", run.job.key, "rq:results:a"):
        assert 0 < int(redis.ttl(key)) <= KEEP_S
        redis.delete(key)  # as if the time had passed
    ending = sweeper(redis, store, KEEP_S + 1)
    ending.done.set()
    assert ending.expire() == 0  # the next one's
    assert sweeper(redis, store, KEEP_S + 1).expire() == 1
    assert paths(store) == [image_path("b", other.execution.id, 0, "png"), upload_path("b", "image", "0" * 64)]
    assert redis.zrange(JOBS_KEY, 0, -1) == [b"b"]
    assert [key for key in map(as_text, redis.keys("*")) if key.endswith(":a")] == [gone_key("a")]
    assert 0 < int(redis.ttl(gone_key("a"))) <= KEEP_S + 1000


class CountingS3(ThreadingHTTPServer):
    """An S3 without objects, each of whose answers takes a while; knows how many were asked for at once."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), EmptyList)
        self.asked = self.most = 0
        self.lock = threading.Lock()

    @property
    def store(self) -> Store:
        endpoint = f"http://127.0.0.1:{self.server_port}"
        options: ClientConfig = {"allow_http": True}
        return S3Store(
            "pictures", endpoint=endpoint, region="x", client_options=options, access_key_id="k", secret_access_key="s"
        )


class EmptyList(BaseHTTPRequestHandler):
    server: CountingS3

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.asked += 1
            self.server.most = max(self.server.most, self.server.asked)
        time.sleep(0.05)
        body = b"<ListBucketResult><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        with self.server.lock:
            self.server.asked -= 1

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_on_s3_several_expired_jobs_are_forgotten_at_once(redis: Redis) -> None:
    redis.zadd(JOBS_KEY, {str(number): 1 for number in range(40)})
    with CountingS3() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        assert sweeper(redis, server.store).expire() == 40
        server.shutdown()
    assert redis.zcard(JOBS_KEY) == 0
    assert server.most > 1


def test_jobs_that_still_wait_after_long_are_kept(redis: Redis, store: Store) -> None:
    enqueue(redis, "a", make_request())
    store.put(upload_path("a", "image", "0" * 64), b"1")
    late = sweeper(redis, store, 100 * KEEP_S)
    assert (late.expire(), late.collect()) == (0, 0)
    assert paths(store) == [upload_path("a", "image", "0" * 64)]
    assert redis.zrange(JOBS_KEY, 0, -1) == [b"a"]


def test_the_owner_s_list_is_pruned_too(redis: Redis, store: Store) -> None:
    redis.zadd(JOBS_KEY, {"a": 1})
    redis.zadd(list_key("k1"), {"a": 1, "b": 2})
    redis.set(gone_key("a"), "k1")
    assert sweeper(redis, store).expire() == 1
    assert redis.zrange(list_key("k1"), 0, -1) == [b"b"]
    assert redis.get(gone_key("a")) == b"k1"


def test_the_job_that_took_over_an_expired_one_s_key_is_left_alone(redis: Redis, store: Store) -> None:
    redis.zadd(JOBS_KEY, {"a": 1})
    store.put(upload_path("a", "image", "0" * 64), b"of the expired one")
    redis.set(idempotency_key("digest"), "b")
    store.put(upload_path("b", "image", "0" * 64), b"of the new one, put before its record")
    assert sweeper(redis, store).expire() == 1
    assert paths(store) == [upload_path("b", "image", "0" * 64)]
    enqueue(redis, "b", make_request())
    assert sweeper(redis, store, KEEP_S + 1).expire() == 0
    assert redis.get(idempotency_key("digest")) == b"b"


def test_what_dead_executions_left_is_collected(redis: Redis, store: Store) -> None:
    run = end(redis, store, "done")
    kept = paths(store)
    store.put(image_path("done", "dead", 0, "png"), b"3")
    store.put(image_path("unknown", "any", 0, "png"), b"4")
    store.put(upload_path("unknown", "mask", "0" * 64), b"5")
    store.put(state_path("done", run.execution.id, 7), b"6")
    assert sweeper(redis, store).collect() == 0  # they may be someone's who writes their keys this moment
    assert sweeper(redis, store, KEEP_S + 1).collect() == 4
    assert paths(store) == kept


def test_images_and_state_of_a_job_that_goes_on_are_kept(redis: Redis, store: Store) -> None:
    worker = make_worker(redis)
    enqueue(redis, "a", make_request())
    run = claim(worker)
    store.put(image_path("a", run.execution.id, 0, "png"), b"1")
    path = state_path("a", run.execution.id, 5)
    store.put(path, b"2")
    store.put(state_path("a", run.execution.id, 3), b"outdated")
    redis.hset(state_key("a"), "path", path)
    Publisher(worker, redis, RETENTION).end(run, HandedBack())
    assert sweeper(redis, store, KEEP_S + 1).collect() == 1
    assert len(paths(store)) == 2


def test_a_newer_release_s_pictures_are_kept_and_stop_no_sweep(redis: Redis, store: Store) -> None:
    kept = end(redis, store, "a")
    result = redis.hget(job_key("a"), "result")
    assert result is not None
    redis.hset(job_key("a"), "result", as_text(result).replace('"images":[]', '"images":[{"format":"avif"}]'))
    store.put(image_path("unknown", "any", 0, "png"), b"1")
    assert sweeper(redis, store, KEEP_S + 1).collect() == 1
    assert image_path("a", kept.execution.id, 0, "png") in paths(store)


def test_images_of_a_failed_job_go(redis: Redis, store: Store) -> None:
    worker = make_worker(redis)
    enqueue(redis, "a", make_request())
    run = claim(worker)
    store.put(image_path("a", run.execution.id, 0, "png"), b"1")
    Publisher(worker, redis, RETENTION).end(run, Failed(JobFailed("it did").problem()))
    assert sweeper(redis, store, KEEP_S + 1).collect() == 1


def test_one_of_many_sweepers_works_in_an_interval(redis: Redis, store: Store, tmp_path: Path) -> None:
    first, second = (Sweeping(redis, sweeper(redis, store), RETENTION) for _ in range(2))
    first.turn()
    store.put(upload_path("unknown", "mask", "0" * 64), b"5")
    redis.zadd(JOBS_KEY, {"a": 1})
    second.turn()
    assert redis.zcard(JOBS_KEY) == 1
    assert (tmp_path / upload_path("unknown", "mask", "0" * 64)).exists()
    redis.delete(sweeping_key("expired"))
    second.turn()
    assert redis.zcard(JOBS_KEY) == 0


def test_deletions_do_not_mind_what_is_gone_and_empty_folders_go_once_they_are_old(
    store: Store, tmp_path: Path
) -> None:
    path = image_path("a", "e", 0, "png")
    store.put(path, b"1")
    delete(store, [image_path("a", "e", 1, "png"), path])
    delete(store, [path])
    tidy(store, time.time() - 60)
    assert (tmp_path / "images" / "a" / "e").is_dir(), "another put may be about to use it"
    tidy(store, time.time() + 60)
    assert list(tmp_path.iterdir()) == []


def test_what_a_put_that_was_cut_short_left_is_removed(redis: Redis, store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "images" / "a" / "e"
    folder.mkdir(parents=True)
    old, young = folder / "0.png#1", folder / "1.png#1"
    for file in (old, young):
        file.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert sweeper(redis, store).collect() == 1
    assert [*folder.iterdir()] == [young]
    assert sweeper(redis, store, KEEP_S + 1).collect() == 1
    assert not (tmp_path / "images").exists()


class Faulty(Sweeper):
    """Meets, the first time, what nobody expected."""

    turns = 0

    def expire(self) -> int:
        self.turns += 1
        if self.turns == 1:
            raise ZeroDivisionError("a mistake")
        return super().expire()


def test_a_sweep_that_fails_is_not_the_last(redis: Redis, store: Store) -> None:
    retention = Retention(1, 10)
    faulty = Faulty(redis, store, retention)
    sweeping = Sweeping(redis, faulty, retention)
    sweeping.start()
    ends = time.monotonic() + 10
    while faulty.turns < 2 and time.monotonic() < ends:
        time.sleep(0.01)
    sweeping.stop()
    assert faulty.turns >= 2


def swept_by_an_ordinary_user(url: str, folder: str) -> Sequence[MutableMapping[str, Any]]:
    """In a process of its own, since the storage has threads of its own: the log lines of one turn."""
    with as_an_ordinary_user(), capture_logs() as logs, Redis.from_url(url) as redis:
        Sweeping(redis, sweeper(redis, open_store(folder), KEEP_S + 1), RETENTION).turn()
    return logs


def swept(redis_url: str, folder: Path) -> list[dict[str, Any]]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        lines = pool.submit(swept_by_an_ordinary_user, redis_url, str(folder)).result()
    return [{name: line[name] for name in ("event", "what", "count", "first") if name in line} for line in lines]


def test_what_can_not_be_deleted_stops_nobody_else_s_end(
    redis: Redis, redis_url: str, store: Store, tmp_path: Path
) -> None:
    assert sweeper(redis, store).collect() == 0  # makes the pair
    for job_id in ("older", "shut", "younger", "orphan", "stray"):
        store.put(image_path(job_id, "e", 0, "png"), b"1")
    store.put(upload_path("stray", "mask", "0" * 64), b"2")
    redis.zadd(JOBS_KEY, {"older": 1, "shut": 2, "younger": 3})
    fixed = [tmp_path / "images" / job_id / "e" for job_id in ("older", "orphan")]
    for place in fixed:
        place.chmod(0o500)  # as another user's, from whom nothing can be deleted
    (tmp_path / "images" / "shut").chmod(0)
    gone, kept = {"event": "swept", "what": "expired", "count": 3}, "objects can't be deleted, tried again hourly"
    older = image_path("older", "e", 0, "png")
    first, second, *rest = swept(redis_url, tmp_path)
    assert (first, second) == ({"event": kept, "count": 2, "first": older}, gone)
    assert redis.zcard(JOBS_KEY) == 0
    assert not (tmp_path / image_path("younger", "e", 0, "png")).exists()
    assert not (tmp_path / upload_path("stray", "mask", "0" * 64)).exists(), "another folder's orphans went"
    assert rest == [
        {"event": kept, "count": 3, "first": older},
        {"event": "swept", "what": "orphans", "count": 2},  # of stray, though shut is listed before it
    ]
    (tmp_path / "images" / "shut").chmod(0o700)
    redis.delete(sweeping_key("orphans"))
    assert swept(redis_url, tmp_path)[-1] == {"event": "swept", "what": "orphans", "count": 1}  # of shut
    assert paths(store) == sorted([older, image_path("orphan", "e", 0, "png")])
    for place in fixed:
        place.chmod(0o700)
    assert sweeper(redis, store, KEEP_S + 1).collect() == 2


def test_a_storage_that_is_away_keeps_the_lists_as_they_are_and_is_told_once(
    redis: Redis, store: Store, tmp_path: Path
) -> None:
    redis.zadd(JOBS_KEY, {str(number): number for number in range(3)})
    tmp_path.rename(tmp_path.with_name("elsewhere"))
    tmp_path.write_text("a file where the folder was: every call fails")
    with capture_logs() as logs:
        Sweeping(redis, sweeper(redis, store), RETENTION).turn()
    assert [line["what"] for line in logs] == ["expired", "orphans"]
    assert redis.zcard(JOBS_KEY) == 3
