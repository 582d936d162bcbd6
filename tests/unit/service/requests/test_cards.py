"""Cards of folders: walked in threads, and not for every request; one that hangs takes no figure of Redis away."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import pytest
from redis.asyncio import Redis as AsyncRedis

from contract.card import ModelCard, model_cards
from contract.redis_keys import CARDS_KEY
from core.errors import Unavailable
from service.metrics.families import Metrics
from service.requests import cards
from service.requests.cards import CardRegistry, Registry
from tests.gateway import PAINTER, UPSCALER


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


Read: TypeAlias = Callable[[], dict[str, ModelCard]]
Told: TypeAlias = Callable[[Read, Sequence[Callable[[], None]]], list[str]]


@pytest.fixture
def told(redis_url: str) -> Told:
    """What scrapes tell of a folder that is read so, with what happens before each."""

    async def scrapes(read: Read, before: Sequence[Callable[[], None]]) -> list[str]:
        async with AsyncRedis.from_url(redis_url, decode_responses=True) as redis:
            await redis.hset(CARDS_KEY, "painter", PAINTER.model_dump_json())
            known, metrics, texts = Registry(redis, CARDS_KEY, ModelCard, read), Metrics(), []
            for happens in before:
                happens()
                texts.append((await metrics.render(redis, known.known)).decode())
            return texts

    return lambda read, before: asyncio.run(scrapes(read, before))


def served(text: str) -> list[str]:
    """Whether Redis is there, and the models that have figures."""
    names = ("latentd_redis_up ", "latentd_workers{")
    return [line.removesuffix(" 0.0") for line in text.splitlines() if line.startswith(names)]


PAINTS, UPSCALES = 'latentd_workers{model="painter"}', 'latentd_workers{model="upscaler"}'


def test_a_folder_that_hangs_keeps_one_thread_and_the_figures_of_redis(told: Told) -> None:
    answers, reads, folder = threading.Event(), [], {"upscaler": UPSCALER}
    answers.set()

    def read() -> dict[str, ModelCard]:
        reads.append(threading.current_thread())
        held = dict(folder)
        assert answers.wait(60)
        return held

    def hang() -> None:
        answers.clear()
        folder.clear()

    def go_on() -> None:
        assert len(reads) == 2, "who asks again waits for the read that hangs"
        answers.set()

    texts = told(read, [lambda: None, hang, lambda: None, go_on])
    both = ["latentd_redis_up 1.0", PAINTS, UPSCALES]
    assert [served(text) for text in texts] == [both, both, both, both[:2]]


def test_a_folder_that_fails_takes_no_figure_of_redis_away(told: Told) -> None:
    def read() -> dict[str, ModelCard]:
        raise OSError("stale file handle")

    assert served(*told(read, [lambda: None])) == ["latentd_redis_up 1.0", PAINTS]


def test_requests_that_need_a_folder_that_hangs_or_fails_are_unavailable(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cards, "FOLDER_PATIENCE_S", 0.05)
    answers = threading.Event()

    def hangs() -> dict[str, ModelCard]:
        assert answers.wait(60)
        return {"upscaler": UPSCALER}

    def fails() -> dict[str, ModelCard]:
        raise OSError("stale file handle")

    async def ask() -> None:
        async with AsyncRedis.from_url(redis_url, decode_responses=True) as redis:
            hanging, failing = (Registry(redis, CARDS_KEY, ModelCard, read) for read in (hangs, fails))
            with pytest.raises(Unavailable, match="the models folder can't be read: it is silent"):
                await hanging.recent()
            with pytest.raises(Unavailable, match="the models folder can't be read: stale file handle"):
                await failing.recent()
            monkeypatch.setattr(cards, "FOLDER_PATIENCE_S", 60)
            answers.set()
            assert list(await hanging.recent()) == ["upscaler"]

    asyncio.run(ask())
