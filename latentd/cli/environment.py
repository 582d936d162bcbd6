"""What is wrong with the environment that settings can't say: unknown variables, a model that isn't there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from dotenv import dotenv_values

from contract.card import ModelCard
from core.errors import ConfigurationError
from core.settings import Settings, variable

PREFIX = "LATENTD_"


def unknown_variables() -> list[str]:
    """Name each `LATENTD_…` variable of the environment or `.env` that is no setting, and the one that may be meant."""
    known = {variable(field) for field in Settings.model_fields}
    names = {name for name in (*os.environ, *dotenv_values(".env")) if name.upper().startswith(PREFIX)}
    return [_told(name, known) for name in sorted(names) if name.upper() not in known]


def _told(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name.upper(), known, 1)
    return f"{name} is no setting" + (f"; {close[0]} is one" if close else "")


def wrong_model(settings: Settings, cards: Mapping[str, ModelCard]) -> str | None:
    """Tell that LATENTD_MODEL names no installed checkpoint; None where it does, or isn't set."""
    if "model" not in settings.model_fields_set or settings.model in cards:
        return None
    return f"LATENTD_MODEL={settings.model!r}: no such model in {settings.models_dir}; there are: {_listed(cards)}"


def check_model(settings: Settings, cards: Mapping[str, ModelCard]) -> None:
    """Raises ConfigurationError where `wrong_model` has something to tell."""
    if (wrong := wrong_model(settings, cards)) is not None:
        raise ConfigurationError(wrong, field="model", value=settings.model, bound=list(cards))


def _listed(cards: Mapping[str, ModelCard]) -> str:
    return ", ".join(cards) or "none"
