"""From settings and model ids to an engine with its models in memory."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from threading import Thread

import structlog
import torch

from core.errors import CheckpointError, ConfigurationError
from core.settings import Settings
from models.addons import Kept
from models.captured import CapturedCalls
from models.checkpoints.detect import loaded_files
from models.checkpoints.load import load
from models.controls.library import ControlLibrary
from models.loras.library import LoraLibrary
from models.networks.layers import can_pack, pack
from models.pipeline import LatentDiffusion
from workers.catalogue import FoundModels, choose, default_model, find_cards, find_controlnets, find_loras
from workers.engine.engine import Engine

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BFLOAT16_CAPABILITY = (8, 0)  # the first cards that multiply it
BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16")  # of CPUs that do
STRICT_ROWS_CPU, STRICT_ROWS_GPU = 4, 16
WIDENING = 2  # half-precision files take twice their size in memory
SHARE = 0.5  # of the free memory that models beyond the default ones may fill; the rest is for pictures

log = structlog.get_logger()


def choose_device(name: str) -> str:
    """Return a device of torch; `auto` is the first GPU, else the CPU.

    Raises:
        ConfigurationError: there is no such device.
    """
    if name == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if name != "cpu" and not re.fullmatch("cuda(:[0-9]+)?", name):
        raise _no_device(name, "must be auto, cpu, cuda or cuda:N", "auto, cpu, cuda or cuda:N")
    if name == "cpu":
        return name
    gpus = torch.cuda.device_count()
    if gpus == 0:
        raise _no_device(name, "torch finds no GPU", "cpu")
    if int(name.partition(":")[2] or 0) >= gpus:
        raise _no_device(name, f"the last GPU is cuda:{gpus - 1}", f"cuda:{gpus - 1}")
    return name


def _no_device(name: str, reason: str, bound: str) -> ConfigurationError:
    return ConfigurationError(f"--device {name!r}: {reason}", field="device", value=name, bound=bound)


def choose_dtype(name: str, device: str) -> torch.dtype:
    """Return the precision of networks on a device; `auto` is the half precision that it multiplies, else float32."""
    if name != "auto":
        return DTYPES[name]
    if torch.device(device).type != "cuda":
        known = torch.cpu.get_capabilities()
        return torch.bfloat16 if any(known.get(flag) for flag in BFLOAT16_FLAGS) else torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= BFLOAT16_CAPABILITY else torch.float16


def load_engine(settings: Settings, model_ids: Sequence[str], device: str) -> Engine:
    """Make an engine that holds these models of LATENTD_MODELS_DIR.

    None given: the default ones, then the others in order of their names while they fit in half of the free memory;
    those that don't load are left out with a log line.

    Raises:
        ConfigurationError: there is no such model or device, or none that loads.
        CheckpointError: one that was asked for doesn't load.
    """
    device = choose_device(device)
    dtype = choose_dtype(settings.dtype, device)
    on_cpu = torch.device(device).type == "cpu"
    if not on_cpu:
        torch.cuda.set_device(device)  # streams and captured calls are those of the current one
    found = find_cards(settings.models_dir)
    chosen = choose(found, model_ids, default_model(found, settings))
    if any(found[model][0].token_window is not None for model in chosen):
        # transformers takes seconds to import: it starts beside the reading of weights, and who needs it first waits.
        Thread(target=import_module, args=("models.networks.text_encoders",)).start()
    if model_ids:
        models = {model: load_ready(found[model][1], device, dtype) for model in chosen}
    else:
        models = load_all(found, chosen, device, dtype)
    kept = Kept(settings.lora_mb << 20)
    return Engine(
        models,
        device=device,
        threads=settings.threads or os.cpu_count() or 1,
        max_rows=settings.max_rows,
        strict_rows=settings.strict_rows or (STRICT_ROWS_CPU if on_cpu else STRICT_ROWS_GPU),
        max_pixels=settings.max_pixels,
        loras=LoraLibrary(find_loras(settings.models_dir), kept),
        controlnets=ControlLibrary(find_controlnets(settings.models_dir), kept),
        as_gpu=not on_cpu,
    )


def load_all(found: FoundModels, first: Sequence[str], device: str, dtype: torch.dtype) -> dict[str, LatentDiffusion]:
    """Load the models of `first`, then those of the others that fit beside them.

    Raises:
        ConfigurationError: none of them loads.
    """
    models: dict[str, LatentDiffusion] = {}
    for model in dict.fromkeys([*first, *found]):
        folder = found[model][1]
        if model not in first and not _fits(folder, device):
            log.info("model not loaded: no room beside the others", model=model, use=f"latentd worker --model {model}")
            continue
        try:
            models[model] = load_ready(folder, device, dtype)
        except CheckpointError as error:
            log.warning("checkpoint left out", model=model, error=error.detail)
    if not models:
        detail = f"none of the checkpoints {', '.join(found)} loads"
        raise ConfigurationError(detail, field="models_dir", value=list(found))
    return models


def load_ready(folder: Path, device: str, dtype: torch.dtype) -> LatentDiffusion:
    """Load a model that will only draw.

    Raises:
        CheckpointError: it doesn't load.
    """
    return ready(load(folder, device, dtype))


def ready(model: LatentDiffusion) -> LatentDiffusion:
    """Let a model run as its device does it fastest: its UNet's weights packed, or its calls captured on a GPU."""
    if can_pack(model.device, model.dtype):
        pack(model.unet)
    if model.device.type != "cuda":
        return model

    def not_captured(error: Exception) -> None:
        log.warning("UNet calls aren't captured: they run one kernel after another", model=model.id, error=str(error))

    return replace(model, denoiser=replace(model.denoiser, captured=CapturedCalls(model.unet, not_captured)))


def _fits(folder: Path, device: str) -> bool:
    try:
        size = sum(file.stat().st_size for file in loaded_files(folder))
    except (CheckpointError, OSError):
        return True  # loading it tells what is wrong
    return WIDENING * size <= SHARE * free_memory(device)


def free_memory(device: str) -> int:
    """Count the bytes that this process may still allocate on a device; 0 where the system doesn't say."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return 0
    facts = dict(line.split(":", 1) for line in lines)
    available = int(facts["MemAvailable"].split()[0]) * 1024
    return min(available, _cgroup_left())


def _cgroup_left() -> int:
    """Count what a container's limit leaves."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit = (folder / "memory.max").read_text("ascii").strip()
        used = int((folder / "memory.current").read_text("ascii"))
    except (OSError, ValueError):
        return sys.maxsize
    return sys.maxsize if limit == "max" else int(limit) - used
