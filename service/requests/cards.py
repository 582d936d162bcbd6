"""Cards of models and add-ons: from Redis, where workers publish them, then from the folders of LATENTD_MODELS_DIR."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import structlog
from pydantic import ConfigDict, Field, ValidationError
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from contract.base import LANES, Kind, Wire
from contract.card import (
    CONTROLNET_FOLDERS,
    EMBEDDING_FOLDERS,
    LORA_FOLDERS,
    ControlNetCard,
    EmbeddingCard,
    InstalledControlNet,
    InstalledEmbedding,
    InstalledLora,
    LoraCard,
    ModelCard,
    add_on_cards,
    model_cards,
)
from contract.redis_keys import (
    CARDS_KEY,
    CONTROLNETS_KEY,
    EMBEDDINGS_KEY,
    LORAS_KEY,
    UNSERVED_KEY,
    cells_written_key,
    serving_key,
    step_times_key,
    work_key,
)
from core.clock import CLOCK
from core.errors import Conflict, InvalidRequest, LatentdError, NoCheckpoint, NotFound, Unavailable
from core.single_flight import SingleFlight
from core.text import as_text
from jobs.queues import remove_queues
from service.http.problems import shown

CONVERT = "latentd models convert PATH $LATENTD_MODELS_DIR/NAME --to native"
RECENT_S = 1.0
FOLDER_S = 1.0  # that figures wait for the folder
FOLDER_PATIENCE_S = 10.0  # that requests do

C = TypeVar("C", bound=Wire)
log = structlog.get_logger("service")


class ListedCard(ModelCard):
    """A card and whether a live worker serves the model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    loaded: bool = Field(
        description="Whether a live worker serves it, from memory or by loading it; requests for others "
        "are accepted and wait."
    )


def installed_cards(models_dir: Path) -> dict[str, ModelCard]:
    """Read the cards of a models directory by model id; one that doesn't validate is logged once and left out."""
    return {card.id: card for _, card in _left(model_cards(models_dir))}


def card_folders(models_dir: Path) -> dict[str, Path]:
    """Find the folders of cards by their ids; of two with one id the first counts."""
    folders: dict[str, Path] = {}
    for file, card in _left(model_cards(models_dir)):
        folders.setdefault(card.id, file.parent)
    return folders


def _left(cards: Iterable[tuple[Path, C | str]]) -> Iterator[tuple[Path, C]]:
    for file, card in cards:
        if isinstance(card, str):
            _leave_out(str(file), card)
        else:
            yield file, card


@lru_cache(maxsize=256)
def _leave_out(source: str, error: str) -> None:
    """Log a card that can't be read, once for each fault of it."""
    log.warning("card left out", source=source, error=error)


@lru_cache(maxsize=256)
def _parse(text: str, source: str, read: Callable[[str], C]) -> C | None:
    try:
        return read(text)
    except ValidationError as error:
        log.warning("card left out", source=source, error=str(error.errors(include_url=False)[0]["msg"]))
        return None


def installed_loras(models_dir: Path) -> dict[str, LoraCard]:
    """Read the cards of a models directory's LoRAs by id; one that doesn't validate is logged once and left out."""
    return {card.id: card.card for _, card in _left(add_on_cards(models_dir, LORA_FOLDERS, InstalledLora))}


def installed_controlnets(models_dir: Path) -> dict[str, ControlNetCard]:
    """Read those of its ControlNets as `installed_loras` does."""
    return {card.id: card.card for _, card in _left(add_on_cards(models_dir, CONTROLNET_FOLDERS, InstalledControlNet))}


def installed_embeddings(models_dir: Path) -> dict[str, EmbeddingCard]:
    """Read the cards of a models directory's embeddings by name; one that doesn't validate is logged once, left out."""
    return {card.name: card.card for _, card in _left(add_on_cards(models_dir, EMBEDDING_FOLDERS, InstalledEmbedding))}


class Registry(Generic[C]):
    """All cards of one form that are known now: of LoRAs, of embeddings, of ControlNets."""

    def __init__(self, redis: Redis, key: str, form: type[C], installed: Callable[[], dict[str, C]]) -> None:
        self._redis = redis
        self._key = key
        self._form = form
        # A folder that hangs holds one thread of those that all share, however many ask.
        self._installed = SingleFlight(partial(asyncio.to_thread, installed))
        self._last: Mapping[str, C] = {}  # what the folder held
        self._recent: tuple[float, dict[str, C]] = (-math.inf, {})  # when it was read
        self._reading = SingleFlight(self.all)

    async def recent(self) -> dict[str, C]:
        """Return what `all` does, at most RECENT_S old: every prompt of a model with CLIP may name embeddings."""
        read_at, cards = self._recent
        return cards if time.monotonic() - read_at < RECENT_S else await self._reading.answer()

    async def all(self) -> dict[str, C]:
        """Read cards by id or name, in order of them; what a worker published wins.

        Raises:
            Unavailable: the folder fails, or is silent for FOLDER_PATIENCE_S.
        """
        published: Any = await self._redis.hgetall(self._key)
        try:
            async with asyncio.timeout(FOLDER_PATIENCE_S):
                self._last = await self._installed.answer()
        except OSError as error:  # the time is over, too
            raise Unavailable(f"the models folder can't be read: {str(error) or 'it is silent'}") from error
        self._recent = time.monotonic(), self._with(published)
        return self._recent[1]

    async def known(self) -> dict[str, C]:
        """Return what `all` does; of a folder that fails or is silent for FOLDER_S, what it last held."""
        published: Any = await self._redis.hgetall(self._key)
        try:
            async with asyncio.timeout(FOLDER_S):
                self._last = await self._installed.answer()
        except OSError as error:  # the time is over, too
            log.warning("the models folder can't be read", error=str(error) or type(error).__name__)
        return self._with(published)

    def _with(self, published: Mapping[str, str]) -> dict[str, C]:
        cards = dict(self._last)
        for name, text in published.items():
            card = _parse(text, "published by a worker", self._form.read)
            if card is not None:
                cards[name] = card
        return dict(sorted(cards.items()))


class CardRegistry(Registry[ModelCard]):
    """All cards of models known now, and who serves those; `default` is the model of requests that name none."""

    def __init__(self, redis: Redis, models_dir: Path, default: str) -> None:
        super().__init__(redis, CARDS_KEY, ModelCard, partial(installed_cards, models_dir))
        self._default = default
        self._folders: dict[str, Path] = {}
        self._looking = SingleFlight(partial(asyncio.to_thread, card_folders, models_dir), RECENT_S)

    async def choose(self, kind: Kind, model: str | None) -> ModelCard:
        """Choose as `choose_card` does; before a refusal, cards are read anew."""
        try:
            return choose_card(await self.recent(), kind, model, self._default)
        except LatentdError:
            return choose_card(await self.all(), kind, model, self._default)

    async def folder(self, model: str) -> Path | None:
        """Find where the model's tokenizer is, if it is installed here; one that isn't is looked for once RECENT_S."""
        folder = self._folders.get(model)
        if folder is None or not folder.exists():
            self._folders = await self._looking.answer()
            folder = self._folders.get(model)
        return folder

    async def live_workers(self, model: str) -> set[str]:
        """Name the workers that offer the model and beat within their time."""
        workers: Any = await self._redis.zrangebyscore(serving_key(model), CLOCK.unix(), "+inf")
        return set(workers)

    async def listed(self, card: ModelCard) -> ListedCard:
        loaded = bool(await self.live_workers(card.id))
        return ListedCard(**card.model_dump(), loaded=loaded)


def find_card(cards: Mapping[str, ModelCard], model: str) -> ModelCard:
    """Return the card of `model`.

    Raises:
        NotFound: naming the known models.
    """
    if model in cards:
        return cards[model]
    known = ", ".join(cards) or "none"
    raise NotFound(f"no model {shown(model)!r}; known models: {known}", field="model", value=model, bound=list(cards))


def choose_card(cards: Mapping[str, ModelCard], kind: Kind, model: str | None, default: str) -> ModelCard:
    """Choose the model that runs a request: the named one, else the default, else the first that has the task.

    Raises:
        NotFound: the named model is unknown.
        InvalidRequest: it lacks the task, which others have.
        NoCheckpoint: no model has the task.
    """
    named = find_card(cards, model) if model is not None else None
    able = [card.id for card in cards.values() if kind in card.tasks]
    if not able:
        raise NoCheckpoint(f"no installed checkpoint can {kind}; install one by `{CONVERT}`", value=kind, bound=CONVERT)
    if named is None:
        return cards[default if default in able else able[0]]
    if named.id not in able:
        detail = f"model {named.id} can't {kind}; models that can: {', '.join(able)}"
        raise InvalidRequest(detail, field="model", value=named.id, bound=able)
    return named


def forget_published(redis: SyncRedis, name: str) -> None:
    """Remove what workers published under a model's id or an add-on's name; who has the file tells of it anew.

    Raises:
        NotFound: nothing is published under it.
        Conflict: a live worker serves the model, or jobs of it wait or run.
        RedisError: Redis is away.
    """
    CLOCK.sync(redis)
    kinds = (CARDS_KEY, LORAS_KEY, EMBEDDINGS_KEY, CONTROLNETS_KEY)
    if not any(redis.hexists(key, name) for key in kinds):
        raise NotFound(f"no worker has published {name!r}", field="name", value=name)
    if workers := redis.zcount(serving_key(name), CLOCK.unix(), "+inf"):
        detail = f"{name} is served by {workers} workers: remove its files and restart them"
        raise Conflict(detail, field="name", value=name)
    if jobs := sum(int(redis.hlen(work_key(name, lane))) for lane in LANES):
        raise Conflict(f"{name} has {jobs} jobs that wait or run: cancel them first", field="name", value=name)
    unserved = [field for field in map(as_text, redis.hkeys(UNSERVED_KEY)) if field.split(":")[1] == name]
    with redis.pipeline() as pipe:
        for key in kinds:
            pipe.hdel(key, name)
        if unserved:
            pipe.hdel(UNSERVED_KEY, *unserved)
        remove_queues(pipe, name)
        pipe.delete(serving_key(name), step_times_key(name), cells_written_key(name))
        pipe.execute()
