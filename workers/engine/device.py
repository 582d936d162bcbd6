"""What a device fixes and what it lacks: the bits of a result, and running out of memory, as every device says it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from contract.common import Numerics
from models.pipeline.fused import making, settled

CPU_WORDS = ("allocate memory", "could not create a primitive")

T = TypeVar("T")


def configure(threads: int) -> None:
    """Fix the number of CPU threads of this process, and cuDNN to algorithms that repeat."""
    torch.set_num_threads(threads)
    if torch.get_num_interop_threads() != 1:
        torch.set_num_interop_threads(1)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def numerics_of(
    device: torch.device, dtype: torch.dtype, *, is_packed: bool, threads: int, strict_rows: int
) -> Numerics:
    """Name what a strict job's bytes depend on beside its request and the model's weights."""
    kind = device.type
    chip = torch.cuda.get_device_name(device) if kind == "cuda" else _cpu()
    return Numerics(
        device=kind,
        dtype=str(dtype).removeprefix("torch."),
        threads=threads,
        rows=strict_rows,
        memory_format="onednn" if is_packed else "channels_last",
        compiled=False,
        torch=f"{torch.__version__} {chip}",
    )


def bfloat16_units() -> list[str]:
    """Name what multiplies bfloat16 on this CPU."""
    known = torch.cpu.get_capabilities()
    return [name for name in ("avx512_bf16", "amx_bf16") if known.get(name)]


def _cpu() -> str:
    """Name the instructions by which the same build of torch, and oneDNN in it, pick their kernels."""
    return " ".join([torch.backends.cpu.get_cpu_capability(), *bfloat16_units()])


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the host; a GPU goes on with what it does meanwhile."""
    return x if device.type == "cpu" else x.pin_memory().to(device, non_blocking=True)


class Timed:
    """How long what was asked of a device between its making and `stop` took there; both return at once."""

    def __init__(self, device: torch.device, clock: Callable[[], float]) -> None:
        self._clock = None if device.type == "cuda" else clock
        self._marks: list[float | torch.cuda.Event] = [self._mark()]

    def stop(self) -> None:
        self._marks.append(self._mark())

    def seconds(self) -> float:
        """Return seconds, after waiting for the device to have done it."""
        began, ended = self._marks
        if isinstance(began, float) or isinstance(ended, float):
            return float(ended) - float(began)  # type: ignore[arg-type]  # both are
        ended.synchronize()
        return float(began.elapsed_time(ended)) / 1e3

    def _mark(self) -> float | torch.cuda.Event:
        if self._clock is not None:
            return self._clock()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def to_host(x: Tensor) -> Tensor:
    """Copy a tensor to the host; of a GPU's it is there once a mark made after this call has passed."""
    if x.device.type == "cpu":
        return x
    return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)


class Side:
    """A second line of work on a device, beside the one of UNet calls; on a CPU it is the same one."""

    def __init__(self, device: torch.device) -> None:
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def run(self, work: Callable[[Tensor], Tensor], x: Tensor) -> Aside:
        """Begin `work(x)` once what was asked for before has been done, and copy its result to the host."""
        if self._stream is None:
            return Aside(work(x), None)
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            x.record_stream(self._stream)
            copy = to_host(work(x))
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()
        return Aside(copy, done)


@dataclass(frozen=True, slots=True)
class Aside:
    """What a side line makes."""

    _copy: Tensor
    _done: torch.cuda.Event | None

    def ready(self) -> bool:
        return self._done is None or bool(self._done.query())  # type: ignore[no-untyped-call]

    def result(self) -> Tensor:
        """Wait for it."""
        if self._done is not None:
            self._done.synchronize()
        return self._copy


def or_none(work: Callable[[], T]) -> T | None:
    """Return the result of `work`, None if it ran out of memory; what it had allocated is free again by then.

    What lacks while kernels are fused beside the work is asked for again once they are: fusing takes as much as a call.
    """
    for last in (False, True):
        beside = making()
        try:
            return work()
        except (MemoryError, RuntimeError) as error:
            if not _is_memory(error):
                raise
        # Outside the handler, where the traceback no longer holds the tensors of the failed call.
        again = not last and (settled() or beside)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if not again:
            break
    return None


def _is_memory(error: Exception) -> bool:
    # Of the CPU torch raises a bare RuntimeError without class or code, and how much was asked for is told nowhere,
    # so that nothing could be tried: its allocator says "can't allocate memory", oneDNN, which packs weights for a
    # convolution, "could not create a primitive". Both texts are torch's own; nothing a client sent is in them.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in str(error) for words in CPU_WORDS)
