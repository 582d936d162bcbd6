"""Which checkpoints there are in LATENTD_MODELS_DIR, and which of them a worker loads."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import structlog

from contract.card import (
    CONTROLNET_FOLDERS,
    EMBEDDING_FOLDERS,
    LORA_FOLDERS,
    InstalledControlNet,
    InstalledEmbedding,
    InstalledLora,
    ModelCard,
    add_on_cards,
    model_cards,
)
from core.errors import ConfigurationError
from core.settings import Settings
from models.add_ons.controls.scan import scan_controls
from models.add_ons.embeddings.scan import scan_embeddings
from models.add_ons.loras.scan import scan_loras
from models.add_ons.shelf import Found, Scanned
from models.checkpoints.scan import scan

FoundModels = Mapping[str, tuple[ModelCard, Path]]
A = TypeVar("A", InstalledLora, InstalledControlNet, InstalledEmbedding)

log = structlog.get_logger()


def chosen_cards(settings: Settings, asked: Sequence[str]) -> dict[str, ModelCard]:
    """Cards of the models that were asked for, or of the default ones, by id. Raises as `choose`."""
    found = find_cards(settings.models_dir)
    return {model: found[model][0] for model in choose(found, asked, default_model(found, settings))}


def write_missing_cards(models_dir: Path) -> None:
    """Give a card to each checkpoint and add-on that has none; a log line for each, and for each that is broken."""
    for item in scan(models_dir):
        if item.error is not None:
            log.warning("checkpoint left out", path=str(item.path), error=item.error)
        elif item.written:
            log.info("card written", path=str(item.card), notes=item.notes)
    addons: list[Scanned[InstalledLora] | Scanned[InstalledControlNet] | Scanned[InstalledEmbedding]]
    addons = [*scan_loras(models_dir), *scan_controls(models_dir), *scan_embeddings(models_dir)]
    for addon in addons:
        if addon.card is None:
            log.warning("add-on left out", path=str(addon.path), error=addon.error)
        elif addon.written:
            log.info("card written", path=str(addon.path), name=addon.card.called, unserved=addon.card.unserved)
    for file, card in model_cards(models_dir):
        if isinstance(card, str):
            log.warning("card left out", path=str(file), error=card)


def find_cards(models_dir: Path) -> dict[str, tuple[ModelCard, Path]]:
    """Cards by model id, each with its folder, in order of the folders' names; one that doesn't read is left out."""
    return {card.id: (card, file.parent) for file, card in model_cards(models_dir) if not isinstance(card, str)}


def find_loras(models_dir: Path) -> dict[str, Found[InstalledLora]]:
    """LoRAs by id."""
    return _find_addons(models_dir, LORA_FOLDERS, InstalledLora)


def find_controlnets(models_dir: Path) -> dict[str, Found[InstalledControlNet]]:
    """ControlNets by id."""
    return _find_addons(models_dir, CONTROLNET_FOLDERS, InstalledControlNet)


def find_embeddings(models_dir: Path) -> dict[str, Found[InstalledEmbedding]]:
    """Embeddings by name."""
    return _find_addons(models_dir, EMBEDDING_FOLDERS, InstalledEmbedding)


def _find_addons(models_dir: Path, folders: Collection[str], form: type[A]) -> dict[str, Found[A]]:
    """Find add-ons by the cards beside them; one whose card doesn't read was told of as cards were written."""
    return {
        card.called: Found(card, file.parent / card.file)
        for file, card in add_on_cards(models_dir, folders, form)
        if not isinstance(card, str)
    }


def default_model(found: FoundModels, settings: Settings) -> str:
    """LATENTD_MODEL; where that is not set and the usual one isn't there, the first that draws from text."""
    if settings.model in found or "model" in settings.model_fields_set or not found:
        return settings.model
    drawing = [model for model, (card, _) in found.items() if "txt2img" in card.tasks]
    return [*drawing, *found][0]


def choose(found: FoundModels, asked: Sequence[str], default: str) -> list[str]:
    """The models that were asked for; else the default one and the first of every task that it lacks.

    Raises:
        ConfigurationError: one of them isn't there; the detail names those that are.
    """
    unknown = [model for model in (asked or [default]) if model not in found]
    if unknown:
        known = ", ".join(found) or "none"
        detail = f"no model {unknown[0]!r}" if asked else f"LATENTD_MODEL={unknown[0]!r}: no such model"
        raise ConfigurationError(f"{detail}; there are: {known}", field="model", value=unknown[0])
    return list(dict.fromkeys(asked)) if asked else _complete(found, default)


def _complete(found: FoundModels, default: str) -> list[str]:
    chosen = [default]
    tasks = set(found[default][0].tasks)
    for model, (card, _) in found.items():
        if not tasks.issuperset(card.tasks):
            chosen.append(model)
            tasks.update(card.tasks)
    return chosen
