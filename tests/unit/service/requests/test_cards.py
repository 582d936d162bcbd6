"""Cards of folders: walked in threads, and not for every request."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis as AsyncRedis

from contract.card import ModelCard, model_cards
from service.requests import cards
from service.requests.cards import CardRegistry
from tests.gateway import PAINTER


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """The threads of all walks over the folder of models."""
    threads: list[threading.Thread] = []

    def walked(models_dir: Path) -> Iterator[tuple[Path, ModelCard | str]]:
        threads.append(threading.current_thread())
        return iter(model_cards(models_dir))

    monkeypatch.setattr(cards, "model_cards", walked)
    return threads


def test_folders_are_walked_in_threads(tmp_path: Path, redis_url: str, walks: list[threading.Thread]) -> None:
    async def ask() -> None:
        async with AsyncRedis.from_url(redis_url, decode_responses=True) as connection:
            known = CardRegistry(connection, tmp_path, "painter")
            await known.all()
            await known.folder("painter")

    asyncio.run(ask())
    assert len(walks) == 2
    assert threading.main_thread() not in walks


def test_a_model_that_isn_t_here_is_looked_for_once_a_while(
    tmp_path: Path, redis_url: str, walks: list[threading.Thread]
) -> None:
    async def ask() -> list[Path | None]:
        async with AsyncRedis.from_url(redis_url) as connection:
            known = CardRegistry(connection, tmp_path, "painter")
            return [await known.folder(model) for model in ("elsewhere", "elsewhere", "painter")]

    (tmp_path / "painter").mkdir()
    (tmp_path / "painter" / "card.json").write_text(PAINTER.model_dump_json(), "utf-8")
    assert asyncio.run(ask()) == [None, None, tmp_path / "painter"]
    assert len(walks) == 1
