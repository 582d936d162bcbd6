"""What a device fixes and what it lacks: the bits of a result, and running out of memory, as every device says it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from contract.request import Numerics
from models.networks.layers import packed
from models.pipeline import LatentDiffusion

CPU_WORDS = ("allocate memory", "could not create a primitive")

T = TypeVar("T")


def configure(threads: int) -> None:
    """Fix the number of CPU threads of this process, and cuDNN to algorithms that repeat."""
    torch.set_num_threads(threads)
    if torch.get_num_interop_threads() != 1:
        torch.set_num_interop_threads(1)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def numerics_of(model: LatentDiffusion, threads: int, strict_rows: int) -> Numerics:
    """Name what a strict job's bytes depend on beside its request and the model's weights."""
    device, kind = model.device, model.device.type
    # The same build of torch picks its CPU kernels by the instruction set that it finds.
    chip = torch.cuda.get_device_name(device) if kind == "cuda" else torch.backends.cpu.get_cpu_capability()
    return Numerics(
        device=kind,
        dtype=str(model.dtype).removeprefix("torch."),
        threads=threads,
        rows=strict_rows,
        memory_format="onednn" if packed(model.unet) else "channels_last",
        compiled=False,
        torch=f"{torch.__version__} {chip}",
    )


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the host; a GPU goes on with what it does meanwhile."""
    return x if device.type == "cpu" else x.pin_memory().to(device, non_blocking=True)


def or_none(work: Callable[[], T]) -> T | None:
    """Return the result of `work`, None if it ran out of memory; what it had allocated is free again by then."""
    try:
        return work()
    except (MemoryError, RuntimeError) as error:
        if not _is_memory(error):
            raise
    # Outside the handler, where the traceback no longer holds the tensors of the failed call.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def _is_memory(error: Exception) -> bool:
    # The CPU has no class of its own: torch's allocator says "can't allocate memory", oneDNN, which packs weights for a
    # convolution, "could not create a primitive".
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in str(error) for words in CPU_WORDS)
