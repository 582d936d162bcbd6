"""Processes of one Redis use one storage: who has another one is told, and what is emptied on purpose is used again."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest
from redis import Redis
from structlog.testing import capture_logs

from contract.redis_keys import DEPLOYMENT_KEY, SEEN_KEY
from core.errors import ConfigurationError
from core.settings import Settings
from core.storage import DEPLOYMENT_OBJECT, Store, open_store
from jobs.deployment import Witness, claim, see
from tests.waits import wait_for

ELSEWHERE = "isn't where the other gateways and workers of this Redis keep pictures"


@pytest.fixture(autouse=True)
def _forgotten_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.deployment.SEEN_S", 2)


def a_machine(redis_url: str, folder: Path, **changes: object) -> tuple[Settings, Store]:
    """Settings with a data directory of its own, and their storage."""
    settings = Settings.model_validate({"redis_url": redis_url, "data_dir": folder} | changes)
    return settings, open_store(settings.storage)


def emptied(store: Store) -> None:
    shutil.rmtree(str(store.prefix))
    Path(str(store.prefix)).mkdir()


def has_id(store: Store) -> bool:
    return (Path(str(store.prefix)) / DEPLOYMENT_OBJECT).exists()


@pytest.fixture
def _used_elsewhere(redis: Redis, redis_url: str, tmp_path: Path) -> object:
    """A process on another machine, which was the first."""
    settings, store = a_machine(redis_url, tmp_path / "first")
    claim(settings, redis, store)
    witness = Witness(settings, redis, store, 0.2)
    witness.start()
    yield
    witness.stop()
    witness.join(10)


@pytest.mark.usefixtures("_used_elsewhere")
@pytest.mark.parametrize("old", [None, b"of its own Redis, before"])
def test_a_folder_of_another_machine_is_refused(
    redis: Redis, redis_url: str, tmp_path: Path, old: bytes | None
) -> None:
    settings, store = a_machine(redis_url, tmp_path / "second")
    if old:
        store.put(DEPLOYMENT_OBJECT, old)
    with pytest.raises(ConfigurationError, match=ELSEWHERE) as refused:
        claim(settings, redis, store)
    assert (refused.value.field, refused.value.value) == ("LATENTD_STORAGE_URL", settings.storage)
    assert has_id(store) == bool(old)


@pytest.mark.usefixtures("_used_elsewhere")
def test_a_mount_point_without_its_mount_waits_as_ever(redis: Redis, redis_url: str, tmp_path: Path) -> None:
    settings, store = a_machine(redis_url, tmp_path / "second", storage_url=str(tmp_path / "mount"))
    claim(settings, redis, store)
    assert not has_id(store)


def test_a_restart_and_a_shared_folder_wait_for_nothing(redis: Redis, redis_url: str, tmp_path: Path) -> None:
    began = time.monotonic()
    for _ in range(3):
        settings, store = a_machine(redis_url, tmp_path)
        claim(settings, redis, store)
    assert time.monotonic() - began < 1.5, "who waits does so for SEEN_S, which is 2 here"
    assert store.get(DEPLOYMENT_OBJECT).bytes() == redis.get(DEPLOYMENT_KEY)


def test_what_was_deleted_on_purpose_is_used_again_once_nobody_sees_it(
    redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    settings, store = a_machine(redis_url, tmp_path)
    claim(settings, redis, store)
    emptied(store)
    claim(settings, redis, store)  # right behind the stop
    assert store.get(DEPLOYMENT_OBJECT).bytes() == redis.get(DEPLOYMENT_KEY)


def test_a_folder_that_is_emptied_beneath_a_process_is_paired_again(
    redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    settings, store = a_machine(redis_url, tmp_path)
    witness = Witness(settings, redis, store, 0.05)
    witness.start()
    wait_for(lambda: has_id(store) and redis.exists(SEEN_KEY), 20, "a first look")
    emptied(store)
    wait_for(lambda: has_id(store), 20, "a second look")
    witness.stop()
    witness.join(10)


@pytest.mark.usefixtures("_used_elsewhere")
def test_who_came_before_redis_says_it_once(redis: Redis, redis_url: str, tmp_path: Path) -> None:
    settings, store = a_machine(redis_url, tmp_path / "second")
    witness = Witness(settings, redis, store, 0.05)
    with capture_logs() as logs:
        witness.start()
        wait_for(lambda: logs, 20, "a warning")
        time.sleep(0.5)
        witness.stop()
        witness.join(10)
    assert [line["log_level"] for line in logs] == ["error"]
    assert ELSEWHERE in logs[0]["event"]
    assert not see(settings, redis, store)


def test_who_has_stopped_a_moment_ago_is_no_reason_to_complain(redis: Redis, redis_url: str, tmp_path: Path) -> None:
    before, first = a_machine(redis_url, tmp_path / "before")
    claim(before, redis, first)
    settings, store = a_machine(redis_url, tmp_path / "moved")
    witness = Witness(settings, redis, store, 0.05)
    with capture_logs() as logs:
        witness.start()
        wait_for(lambda: has_id(store), 20, "an id")
        witness.stop()
        witness.join(10)
    assert [(line["log_level"], line["event"][:21]) for line in logs] == [("warning", "a storage without an ")]


def test_who_sees_it_asks_the_address_of_a_replica_anew(redis: Redis, redis_url: str, tmp_path: Path) -> None:
    settings, store = a_machine(redis_url, tmp_path)
    claim(settings, redis, store)
    before = redis.client_id()
    redis.replicaof("127.0.0.1", "1")
    assert see(settings, redis, store)
    redis.replicaof("NO", "ONE")
    assert redis.client_id() != before


def test_who_waits_says_so_once(redis: Redis, redis_url: str, tmp_path: Path) -> None:
    before, first = a_machine(redis_url, tmp_path / "before")
    claim(before, redis, first)
    settings, store = a_machine(redis_url, tmp_path / "moved")
    with capture_logs() as logs:
        claim(settings, redis, store)
    assert [line["log_level"] for line in logs] == ["info", "warning"]


def test_a_witness_outlives_redis_and_storage(tmp_path: Path) -> None:
    settings, store = a_machine("redis://127.0.0.1:1", tmp_path)
    witness = Witness(settings, Redis.from_url(settings.redis), store, 0.01)
    witness.start()
    time.sleep(0.2)
    assert witness in threading.enumerate()
    witness.stop()
    witness.join(10)
