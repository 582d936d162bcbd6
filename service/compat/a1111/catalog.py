"""What the web UI's clients may choose, by our cards: checkpoints, upscalers, LoRAs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from contract.card import ModelCard
from core.errors import InvalidRequest
from service.compat.a1111.answers import EmbeddingItem, EmbeddingsAnswer, LoraItem, ModelItem, UpscalerItem
from service.http.problems import shown
from service.state import Gateway

DRAWING = frozenset(("txt2img", "img2img", "inpaint"))
LATENT_MODE = "Latent"  # of the high-resolution pass alone
PLAIN_UPSCALERS = ("None", "Lanczos", "Nearest")
HASH_CHARACTERS = 10


def title(card: ModelCard) -> str:
    """Return a checkpoint's title as the web UI writes it."""
    return f"{card.id} [{card.hash[:HASH_CHARACTERS]}]"


def drawing_cards(cards: Mapping[str, ModelCard]) -> list[ModelCard]:
    """Return the models that draw by a text."""
    return [card for card in cards.values() if DRAWING & set(card.tasks)]


def model_items(cards: Mapping[str, ModelCard]) -> list[ModelItem]:
    """List them."""
    return [
        ModelItem(
            title=title(card),
            model_name=card.id,
            hash=card.hash[:HASH_CHARACTERS],
            sha256=card.hash,
            filename=card.id,
        )
        for card in drawing_cards(cards)
    ]


def find_model(cards: Mapping[str, ModelCard], name: str) -> str:
    """Return the id of a model by title, name or hash; whether it has the task is told as for our own endpoints.

    Raises:
        InvalidRequest: there is none; naming those that draw by a text.
    """
    for card in cards.values():
        if name in (card.id, title(card), card.hash, card.hash[:HASH_CHARACTERS]):
            return card.id
    names = [title(card) for card in drawing_cards(cards)]
    detail = f"checkpoint {shown(name)!r} not found; there are {', '.join(names)}"
    raise InvalidRequest(detail, field="sd_model_checkpoint", value=name, bound=names)


def default_model(cards: Mapping[str, ModelCard], default: str) -> ModelCard | None:
    """Return the model of requests that name none, None if nothing is installed."""
    drawing = {card.id: card for card in drawing_cards(cards)}
    return drawing.get(default) or next(iter(drawing.values()), None)


def upscaler_items(cards: Mapping[str, ModelCard]) -> list[UpscalerItem]:
    """List plain resizing and the models that upscale."""
    plain = [UpscalerItem(name=name) for name in PLAIN_UPSCALERS]
    models = [UpscalerItem(name=card.id, model_name=card.id, scale=card.scale) for card in _upscaling(cards.values())]
    return [*plain, *models]


def find_upscaler(cards: Mapping[str, ModelCard], name: str | None) -> str:
    """Return an upscaler's own name.

    Raises:
        InvalidRequest: there is none; naming those that are.
    """
    names = [item.name for item in upscaler_items(cards)]
    for known in names:
        if (name or "None").lower() == known.lower():
            return known
    detail = f"upscaler {shown(name)!r} not found; there are {', '.join(names)}"
    raise InvalidRequest(detail, field="upscaler_1", value=name, bound=names)


def hires_upscalers(cards: Mapping[str, ModelCard]) -> list[str]:
    """List the models that may enlarge between two passes."""
    return [card.id for card in _upscaling(cards.values())]


def _upscaling(cards: Iterable[ModelCard]) -> list[ModelCard]:
    return [card for card in cards if "upscale" in card.tasks]


async def lora_items(gateway: Gateway) -> list[LoraItem]:
    """List the LoRAs that prompts may name."""
    cards = await gateway.loras.all()
    return [LoraItem(name=name, alias=name, path=name) for name, card in cards.items() if card.unserved is None]


async def embeddings_answer(gateway: Gateway) -> EmbeddingsAnswer:
    """List the embeddings that prompts may name, whatever the model, and those whose files can't be read."""
    loaded: dict[str, EmbeddingItem] = {}
    skipped: dict[str, EmbeddingItem] = {}
    for name, card in (await gateway.embeddings.all()).items():
        item = EmbeddingItem(shape=sum(card.widths), vectors=card.vectors)
        (loaded if card.unserved is None else skipped)[name] = item
    return EmbeddingsAnswer(loaded=loaded, skipped=skipped)


def options(cards: Mapping[str, ModelCard], default: str, preview_every: int) -> dict[str, Any]:
    """Return the web UI's settings, as far as they have a meaning here: none can be changed."""
    card = default_model(cards, default)
    return {
        "sd_model_checkpoint": None if card is None else title(card),
        "sd_checkpoint_hash": None if card is None else card.hash,
        "sd_vae": "Automatic",
        "CLIP_stop_at_last_layers": 1,
        "samples_format": "png",
        "enable_pnginfo": True,
        "live_previews_enable": True,
        "show_progress_grid": True,
        "show_progress_every_n_steps": preview_every,
    }
