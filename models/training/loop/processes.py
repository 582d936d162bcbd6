"""One run on many processes, as torchrun starts them: each computes its share of every batch; gradients are summed.

Gradients are added up in buckets after the backward pass instead of by DistributedDataParallel's hooks: the first stage
has two networks that read each other's outputs, and a sum over samples equals one process's whatever the shares.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from core.errors import ConfigurationError

BUCKET = 32 << 20  # bytes of gradients summed by one call
PATIENCE = timedelta(hours=12)  # while the first process encodes a data set, the others wait


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among `count`."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def share(self, batch: int) -> range:
        """Return which samples of a batch, which the processes divide, this one computes."""
        size = batch // self.count
        return range(self.rank * size, (self.rank + 1) * size)

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Add up the gradients of all processes, in place."""
        if self.count > 1:
            for bucket in _buckets([p.grad for p in parameters if p.grad is not None]):
                self._sum_bucket(bucket)

    def _sum_bucket(self, tensors: list[Tensor]) -> None:
        parts = torch.split(self.sum(torch.cat([t.flatten() for t in tensors])), [t.numel() for t in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum over all processes of a tensor, which may be overwritten."""
        if self.count > 1:
            dist.all_reduce(value)
        return value

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows n … of all processes, in order of their ranks; each has as many."""
        if self.count == 1:
            return rows
        parts = [torch.empty_like(rows) for _ in range(self.count)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    def take_first(self, value: Tensor) -> None:
        """Write the first process's tensor over this process's."""
        if self.count > 1:
            dist.broadcast(value, 0)

    def any(self, flag: bool) -> bool:
        """Tell whether any process says so: all of them stop after the same step."""
        return bool(self.sum(torch.tensor(float(flag), device=self.device)) > 0)

    def wait(self) -> None:
        """Wait for all processes."""
        if self.count > 1:
            dist.barrier()

    @property
    def device(self) -> torch.device:
        """Where what is exchanged must be."""
        on_gpu = self.count > 1 and dist.get_backend() == "nccl"
        return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")


def join(device: str) -> tuple[Processes, torch.device]:
    """Join the processes that torchrun started, or be the only one. Returns this process's device, too.

    They stay joined through all phases of a recipe, until `leave`: a group that was left isn't joined again.

    Raises:
        ConfigurationError: the device isn't there.
    """
    chosen = device_of(device)
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Processes(), chosen
    if chosen.type == "cuda":
        rank = int(os.environ.get("LOCAL_RANK", "0"))
        _check_gpu(rank, f"torchrun started process {rank} (from 0) here, and each has its own GPU")
        chosen = torch.device("cuda", rank)
        torch.cuda.set_device(chosen)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=PATIENCE)
    return Processes(dist.get_rank(), count), chosen


def leave() -> None:
    """Leave what `join` joined, if anything was."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def device_of(name: str) -> torch.device:
    """Return the device of a name; auto is CUDA where there is some.

    Raises:
        ConfigurationError: the device isn't there, or is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    told, known = f"device is {name!r}", "cpu, cuda or cuda:N"
    if not re.fullmatch("cpu|cuda(:[0-9]+)?", name):
        raise ConfigurationError(f"{told}; {known} is one", field="device", value=name, bound=known)
    if name != "cpu":
        _check_gpu(int(name.partition(":")[2] or 0), told)
    return torch.device(name)


def _check_gpu(index: int, told: str) -> None:
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= gpus:
        detail = f"{told}; torch finds {f'{gpus} CUDA devices, from cuda:0,' if gpus else 'no CUDA device'} here"
        raise ConfigurationError(detail, field="device", value=f"cuda:{index}", bound=gpus)


def _buckets(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        bucket.append(tensor)
        size += tensor.nbytes
        if size >= BUCKET:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket
