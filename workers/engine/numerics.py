"""What fixes the bits of a result: device, dtype, thread count and the row count of strict calls."""

from __future__ import annotations

import torch

from contract.request import Numerics


def configure(threads: int) -> None:
    """Fix the number of CPU threads of this process, and cuDNN to algorithms that repeat."""
    torch.set_num_threads(threads)
    if torch.get_num_interop_threads() != 1:
        torch.set_num_interop_threads(1)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def numerics_of(device: str, dtype: torch.dtype, threads: int, strict_rows: int) -> Numerics:
    """What a strict job's bytes depend on beside its request and the model's weights."""
    kind = torch.device(device).type
    # The same build of torch picks its CPU kernels by the instruction set that it finds.
    chip = torch.cuda.get_device_name(device) if kind == "cuda" else torch.backends.cpu.get_cpu_capability()
    return Numerics(
        device=kind,
        dtype=str(dtype).removeprefix("torch."),
        threads=threads,
        rows=strict_rows,
        memory_format="channels_last",
        compiled=False,
        torch=f"{torch.__version__} {chip}",
    )
