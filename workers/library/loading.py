"""From settings and model ids to an engine with its models in memory."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from threading import Thread

import structlog
import torch

from core.errors import CheckpointError, ConfigurationError
from core.settings import Settings
from models.add_ons.controls.library import ControlLibrary
from models.add_ons.embeddings.library import EmbeddingLibrary
from models.add_ons.loras.library import LoraLibrary
from models.add_ons.shelf import Kept
from models.checkpoints.layouts.taesd import load_tiny_decoder, tiny_decoder_of
from models.checkpoints.load import load
from models.networks.layers import can_pack, pack
from models.pipeline.captured import CapturedCalls
from models.pipeline.fused import FusedNetwork
from models.pipeline.pipeline import LatentDiffusion
from workers.engine.device import bfloat16_units
from workers.engine.engine import Engine
from workers.library.catalogue import choose, default_model, find_cards, find_controlnets, find_embeddings, find_loras
from workers.library.library import MIB, ModelLibrary, Offered, offered
from workers.library.memory import free_memory

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BFLOAT16_CAPABILITY = (8, 0)  # the first cards that multiply it
SHARE = 0.5  # of the free memory that models may fill; the rest is for pictures

log = structlog.get_logger()


def choose_device(name: str) -> str:
    """Return a device of torch; `auto` is the first GPU, else the CPU; `cuda` is the first GPU.

    Raises:
        ConfigurationError: there is no such device.
    """
    if name == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if name != "cpu" and not re.fullmatch("cuda(:[0-9]+)?", name):
        raise _no_device(name, "must be auto, cpu, cuda or cuda:N", "auto, cpu, cuda or cuda:N")
    if name == "cpu":
        return name
    # The count alone may be NVML's, which knows nothing of a driver that is too old.
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus == 0:
        raise _no_device(name, f"torch {torch.__version__} finds no GPU that it can use", "cpu")
    index = int(name.partition(":")[2] or 0)
    if index >= gpus:
        raise _no_device(name, f"the last GPU is cuda:{gpus - 1}", f"cuda:{gpus - 1}")
    return f"cuda:{index}"


def _no_device(name: str, reason: str, bound: str) -> ConfigurationError:
    return ConfigurationError(f"--device {name!r}: {reason}", field="device", value=name, bound=bound)


def choose_dtype(name: str, device: str) -> torch.dtype:
    """Return the precision of networks on a device; `auto` is the half precision that it multiplies, else float32."""
    if name != "auto":
        return DTYPES[name]
    if torch.device(device).type != "cuda":
        return torch.bfloat16 if bfloat16_units() else torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= BFLOAT16_CAPABILITY else torch.float16


def load_engine(settings: Settings, model_ids: Sequence[str], device: str) -> Engine:
    """Make an engine that holds all of these models of LATENTD_MODELS_DIR; none given: as many as a worker starts with.

    Raises:
        ConfigurationError: there is no such model or device, or none that loads.
        CheckpointError: one that was asked for doesn't load.
    """
    library = open_library(settings.model_copy(update={"models_mb": 0}), model_ids, device)
    library.close()
    return engine_of(settings, library)


def engine_of(settings: Settings, library: ModelLibrary) -> Engine:
    """Make the engine that computes with what a library has in memory."""
    device = next(iter(library.offered.values())).device
    on_cpu, kept = device.type == "cpu", Kept(settings.lora_mb << 20)
    return Engine(
        library.resident,
        device=str(device),
        threads=settings.threads or os.cpu_count() or 1,
        max_rows=settings.max_rows,
        strict_rows=settings.strict_rows_on(device.type),
        max_pixels=settings.max_pixels,
        loras=LoraLibrary(find_loras(settings.models_dir), kept),
        embeddings=EmbeddingLibrary(find_embeddings(settings.models_dir)),
        controlnets=ControlLibrary(find_controlnets(settings.models_dir), kept),
        as_gpu=not on_cpu,
    )


def open_library(settings: Settings, model_ids: Sequence[str], device: str) -> ModelLibrary:
    """Offer these models of LATENTD_MODELS_DIR (none given: all) and load those that fit into LATENTD_MODELS_MB.

    The default ones come first, then the others in order of their names. Where the setting is 0, the budget is half of
    the free memory, and what was asked for or is a default one is loaded whatever is free. What doesn't load or can't
    fit is left out with a log line.

    Raises:
        ConfigurationError: there is no such model or device, none that loads, or one that was asked for can't fit.
        CheckpointError: one that was asked for doesn't load.
    """
    device = choose_device(device)
    dtype = choose_dtype(settings.dtype, device)
    if torch.device(device).type == "cuda":
        torch.cuda.set_device(device)  # streams and captured calls are those of the current one
    found = find_cards(settings.models_dir)
    first = choose(found, model_ids, default_model(found, settings))
    names = list(first if model_ids else dict.fromkeys([*first, *found]))
    models = _readable({name: found[name][1] for name in names}, device, dtype, asked=bool(model_ids))
    budget = settings.models_mb * MIB or _budget([model for model in models if model.id in first], device)
    library = ModelLibrary(_fitting(models, budget, asked=bool(model_ids)), budget, load_offered)
    if any(model.token_window is not None for model in library.offered.values()):
        # transformers takes seconds to import: it starts beside the reading of weights, and who needs it first waits.
        Thread(target=import_module, args=("models.networks.text_encoders",)).start()
    for name in library.names():
        _load_first(library, name, asked=bool(model_ids))
    if not library.resident:
        detail = f"none of the checkpoints {', '.join(names)} loads"
        raise ConfigurationError(detail, field="models_dir", value=names)
    return library


def _readable(folders: Mapping[str, Path], device: str, dtype: torch.dtype, *, asked: bool) -> list[Offered]:
    models = []
    for name, folder in folders.items():
        try:
            models.append(offered(name, folder, device, dtype))
        except CheckpointError as error:
            if asked:
                raise
            log.warning("checkpoint left out", model=name, error=error.detail)
    return models


def _budget(first: Sequence[Offered], device: str) -> int:
    return max(int(SHARE * free_memory(device)), sum(model.size for model in first))


def _fitting(models: Sequence[Offered], budget: int, *, asked: bool) -> list[Offered]:
    """Leave out what wouldn't fit even by itself."""
    for model in models:
        if model.size <= budget:
            continue
        needs, has = -(-model.size // MIB), budget // MIB
        if asked:
            detail = f"LATENTD_MODELS_MB={has}: model {model.id} takes {needs} MiB"
            raise ConfigurationError(detail, field="LATENTD_MODELS_MB", value=has, bound=needs)
        log.warning("model not offered: it doesn't fit", model=model.id, needs_mb=needs, models_mb=has)
    return [model for model in models if model.size <= budget]


def _load_first(library: ModelLibrary, name: str, *, asked: bool) -> None:
    try:
        library.fill(name)
    except CheckpointError as error:
        if asked:
            raise
        log.warning("checkpoint left out", model=name, error=error.detail)
        library.withdraw(name)


def load_offered(model: Offered) -> LatentDiffusion:
    """Load a model that a worker offers. Raises as `load_ready`."""
    return load_ready(model.folder, str(model.device), model.dtype)


def load_ready(folder: Path, device: str, dtype: torch.dtype) -> LatentDiffusion:
    """Load a model that will only draw.

    Raises:
        CheckpointError: it doesn't load.
        torch.OutOfMemoryError: the device lacks memory for it.
    """
    return ready(_with_tiny_decoder(load(folder, device, dtype), folder))


def _with_tiny_decoder(model: LatentDiffusion, folder: Path) -> LatentDiffusion:
    """Add what decodes its previews, where that is there; a file that doesn't read is told, and left out."""
    try:
        place = tiny_decoder_of(folder, model.config)
        if place is None:
            return model
        decoder = load_tiny_decoder(place, model.latent_channels, str(model.device), model.dtype)
    except CheckpointError as error:
        log.warning("previews are made by the first stage", model=model.id, error=error.detail)
        return model
    return replace(model, tiny_decoder=decoder)


def ready(model: LatentDiffusion) -> LatentDiffusion:
    """Let a model run as its device does it fastest: its UNet's weights packed, or its calls fused and captured."""
    if can_pack(model.device, model.dtype):
        pack(model.unet)
    if model.device.type != "cuda":
        return model

    def not_captured(error: Exception) -> None:
        log.warning("UNet calls aren't captured: they run one kernel after another", model=model.id, error=str(error))

    def not_fused(error: Exception) -> None:
        log.warning("no more UNet calls are fused", model=model.id, error=str(error))

    calls = CapturedCalls(model.unet, not_captured, FusedNetwork(model.unet, not_fused))
    return replace(model, denoiser=replace(model.denoiser, captured=calls))
