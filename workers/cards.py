"""Which checkpoints there are in LATENTD_MODELS_DIR, and which of them a worker loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from latentd.errors import CheckpointError, ConfigurationError
from latentd.settings import Settings
from service.contract import ModelCard

Found = Mapping[str, tuple[ModelCard, Path]]


def chosen_cards(settings: Settings, asked: Sequence[str]) -> dict[str, ModelCard]:
    """Cards of the models that a worker loads, by id. Raises as `find_cards` and `choose`."""
    found = find_cards(settings.models_dir)
    return {model: found[model][0] for model in choose(found, asked, settings.model)}


def find_cards(models_dir: Path) -> dict[str, tuple[ModelCard, Path]]:
    """Cards by model id, each with its folder, in order of the folders' names.

    Raises:
        CheckpointError: a card doesn't read; the detail names the file.
    """
    found = {}
    for file in sorted(models_dir.glob("*/card.json")):
        try:
            card = ModelCard.model_validate_json(file.read_bytes())
        except (ValidationError, OSError) as error:
            raise CheckpointError(f"{file}: {error}", field="card.json", value=str(file)) from error
        found[card.id] = (card, file.parent)
    return found


def choose(found: Found, asked: Sequence[str], default: str) -> list[str]:
    """The models that were asked for; else the default one and the first of every task that it lacks.

    Raises:
        ConfigurationError: one of them isn't there; the detail names those that are.
    """
    unknown = [model for model in (asked or [default]) if model not in found]
    if unknown:
        known = ", ".join(found) or "none"
        raise ConfigurationError(f"no model {unknown[0]!r}; there are: {known}", field="model", value=unknown[0])
    return list(dict.fromkeys(asked)) if asked else _complete(found, default)


def _complete(found: Found, default: str) -> list[str]:
    chosen = [default]
    tasks = set(found[default][0].tasks)
    for model, (card, _) in found.items():
        if not tasks.issuperset(card.tasks):
            chosen.append(model)
            tasks.update(card.tasks)
    return chosen
