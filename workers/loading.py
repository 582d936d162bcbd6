"""From settings and model ids to an engine with its models in memory."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from latentd.errors import ConfigurationError
from latentd.settings import Settings
from models.pipeline import load
from workers.cards import choose, find_cards
from workers.engine import Engine

STRICT_ROWS_CPU, STRICT_ROWS_GPU = 4, 16


def choose_device(name: str) -> str:
    """A device of torch; `auto` is the first GPU, else the CPU.

    Raises:
        ConfigurationError: there is no such device.
    """
    if name == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise ConfigurationError(f"--device {name!r}: {error}", field="device", value=name) from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError(f"--device {name!r}: torch finds no GPU", field="device", value=name, bound="cpu")
    return name


def load_engine(settings: Settings, model_ids: Sequence[str], device: str) -> Engine:
    """An engine that holds these models of LATENTD_MODELS_DIR (none: the default ones).

    Raises:
        ConfigurationError: there is no such model or device.
        CheckpointError: one doesn't load.
    """
    device = choose_device(device)
    found = find_cards(settings.models_dir)
    models = {model: load(found[model][1], device) for model in choose(found, model_ids, settings.model)}
    on_cpu = torch.device(device).type == "cpu"
    return Engine(
        models,
        device=device,
        threads=settings.threads or os.cpu_count() or 1,
        max_rows=settings.max_rows,
        strict_rows=settings.strict_rows or (STRICT_ROWS_CPU if on_cpu else STRICT_ROWS_GPU),
        max_pixels=settings.max_pixels,
    )
