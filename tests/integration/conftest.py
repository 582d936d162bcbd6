"""Fixtures of the integration tests: tiny models, written once, a worker that serves them, a gateway without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from core.settings import Settings
from tests.gateway import client, folder, gateway, gateway_settings
from tests.integration.rig import Rig, tiny_settings, write_models
from workers.runs.saving import SAVE_S

__all__ = ["client", "folder", "gateway", "gateway_settings", "make_rig", "rig", "settings", "tiny_models"]

MakeRig = Callable[..., Rig]


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models directory with the tiny checkpoints."""
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def settings(tiny_models: Path, redis_url: str, tmp_path: Path) -> Settings:
    """Settings of a worker on the test's Redis and a storage of its own."""
    return tiny_settings(tiny_models, redis_url, tmp_path)


@pytest.fixture
def make_rig(redis: Redis, settings: Settings) -> Iterator[MakeRig]:
    """Makes workers in this process."""
    rigs: list[Rig] = []

    def make(name: str, save_s: float = SAVE_S) -> Rig:
        rigs.append(Rig(redis, settings, name, save_s))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    """One worker."""
    return make_rig("rig")
