"""docker-compose.yml lived through: Redis, a key, gateway, worker, a picture, Prometheus' targets."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from tests.deploy.compose import Container, Place
from tests.deploy.files import PROMETHEUS, documents
from tests.deploy.prometheus import Prometheus
from tests.tiny import write_tiny_inpaint, write_tiny_upscale


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    models = tmp_path_factory.mktemp("models")
    write_tiny_inpaint(models / "tiny")
    write_tiny_upscale(models / "tiny-upscale")
    return Place(tmp_path_factory.mktemp("compose"), models)


@pytest.fixture(scope="module")
def key(place: Place) -> Iterator[str]:
    """All services run, each healthy by its own check; the key that the one command of README made."""
    with ExitStack() as stack:
        stack.enter_context(Container(place, "redis"))
        made = Container(place, "gateway").run("latentd", "keys", "create", "me").strip()
        for service in ("gateway", "worker-cpu"):
            stack.enter_context(Container(place, service))
        yield made


@pytest.fixture
def client(place: Place, key: str) -> Iterator[httpx2.Client]:
    url, headers = f"http://127.0.0.1:{place.ports['8000']}", {"Authorization": f"Bearer {key}"}
    with httpx2.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as opened:
        yield opened


def test_it_draws_a_picture(client: httpx2.Client) -> None:
    answer = client.post("/v1/txt2img", json={"prompt": "red heart"}, headers={"Accept": "image/png"})
    assert answer.status_code == 200, answer.text
    assert Image.open(io.BytesIO(answer.content)).size == (64, 64)


def test_nobody_gets_in_without_a_key(client: httpx2.Client) -> None:
    del client.headers["Authorization"]
    assert client.post("/v1/txt2img", json={"prompt": "red heart"}).status_code == 401
    assert client.get("/metrics").status_code == 401
    assert client.get("/readyz").status_code == 200


def test_redis_syncs_every_write(place: Place, key: str) -> None:  # noqa: ARG001 (it runs)
    redis = Container(place, "redis")
    assert redis.run("redis-cli", "config", "get", "appendonly").split() == ["appendonly", "yes"]
    assert redis.run("redis-cli", "config", "get", "appendfsync").split() == ["appendfsync", "always"]


def test_redis_refuses_writes_rather_than_evicts(place: Place, key: str) -> None:  # noqa: ARG001 (it runs)
    redis = Container(place, "redis")
    assert redis.run("redis-cli", "config", "get", "maxmemory").split() == ["maxmemory", str(2**30)]
    assert redis.run("redis-cli", "config", "get", "maxmemory-policy").split() == ["maxmemory-policy", "noeviction"]


def test_data_is_in_the_volumes(place: Place, client: httpx2.Client) -> None:
    client.post("/v1/txt2img", json={"prompt": "red heart"}, headers={"Prefer": "wait=60"})
    assert list((place.folder / "data" / "objects").rglob("*.png"))
    assert list((place.folder / "redis").rglob("*.aof"))


def test_prometheus_finds_its_targets_up(place: Place, key: str) -> None:  # noqa: ARG001 (they run)
    config = documents(PROMETHEUS / "prometheus.yml")[0]
    config["rule_files"] = [str(PROMETHEUS / name) for name in config["rule_files"]]
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    for job in config["scrape_configs"]:
        (found,) = job.pop("dns_sd_configs")
        job["static_configs"] = [{"targets": [f"127.0.0.1:{place.ports[str(found['port'])]}"]}]
    with Prometheus(config) as prometheus:
        prometheus.wait_until_up("latentd-gateway", "latentd-worker")
        assert {"up"} == {health for each in prometheus.targets().values() for health in each}
        assert rules_healthy(prometheus)


def rules_healthy(prometheus: Prometheus) -> bool:
    """Whether every alert rule has been evaluated without an error."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        groups: list[dict[str, Any]] = prometheus.ask("rules")["groups"]
        health = {rule["health"] for group in groups for rule in group["rules"]}
        if health == {"ok"}:
            return True
        time.sleep(0.3)
    return False


def test_logs_hold_no_prompt(place: Place, client: httpx2.Client) -> None:
    client.post("/v1/txt2img", json={"prompt": "red heart"}, headers={"Prefer": "wait=60"})
    logs: list[Path] = sorted(place.folder.glob("*.log"))
    assert {log.stem for log in logs} == {"redis", "gateway", "worker-cpu"}
    assert not any("red heart" in log.read_text() for log in logs)
