"""Calls of a network over buffers that stay where they are, which a GPU records once and then repeats as one launch.

A UNet is hundreds of small kernels; at few rows a GPU waits for the host to launch them. CUDA graphs need the same
addresses every time: each shape gets its own buffers, and inputs are copied into them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from models.pipeline.fused import ALONE, Arguments, FusedNetwork, Shape

WARM_UP = 3  # calls before recording: libraries choose their kernels and take their memory
KEPT = 32  # shapes; the least recently used leave

Network: TypeAlias = Callable[..., Tensor]


class CapturedCall:
    """One shape of a call: its buffers and, on a GPU, what was recorded over them; elsewhere the network runs."""

    def __init__(self, network: Network, given: Arguments, pool: Any) -> None:
        self._network = network
        self._buffers = [None if value is None else value.clone() for value in given]
        self._recorded: tuple[torch.cuda.CUDAGraph, Tensor] | None = None
        if _on_gpu(given):
            self._record(pool)

    def __call__(self, given: Arguments) -> Tensor:
        """Return the network's output, which the next call of the same pool overwrites."""
        for buffer, value in zip(self._buffers, given, strict=True):
            if buffer is not None and value is not None:
                buffer.copy_(value)
        if self._recorded is None:
            return self._network(*self._buffers)
        graph, out = self._recorded
        graph.replay()
        return out

    def _record(self, pool: Any) -> None:
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self._network(*self._buffers)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Another thread may load a model meanwhile: what it allocates must not end the recording.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            out = self._network(*self._buffers)
        self._recorded = graph, out


@dataclass(slots=True, eq=False)
class CapturedCalls:
    """The calls of one network by shapes and precisions of their arguments, at most `kept` of them.

    What can't be recorded is called plainly from then on, after `failed` was told why; a shape for which memory was
    short when it was to be recorded, too. While something is being fused nothing is recorded. The fused network takes
    over the shapes that it has, but those of exact calls: its roundings are others.
    """

    network: Network
    failed: Callable[[Exception], None]
    fused: FusedNetwork | None = None
    kept: int = KEPT
    calls: OrderedDict[Shape, CapturedCall] = field(default_factory=OrderedDict)
    _pool: Any = None  # of memory, which calls that follow each other share
    _large: set[Shape] = field(default_factory=set)  # shapes for whose recording memory was short
    broken: bool = False  # what can't be recorded is called plainly

    def __call__(self, *given: Tensor | None, exact: bool = False) -> Tensor:
        """Return the network's output; the next call overwrites it."""
        shape = tuple(None if value is None else (value.shape, value.dtype) for value in given)
        if self.fused is None or exact:
            return self._of(False, self.network, shape, given)
        if self.fused.has(shape):
            return self._of(True, self.fused, shape, given)
        out = self._of(False, self.network, shape, given)
        self.fused.begin(shape, given)
        return out

    def _of(self, fused: bool, network: Network, shape: Shape, given: Arguments) -> Tensor:
        """Call as it was recorded, or record it; while that can't be, as the plain network was recorded."""
        key = (fused, *shape)
        if key not in self.calls and not self._capture(key, network, given):
            key = (False, *shape)
        if key not in self.calls:
            return network(*given)
        self.calls.move_to_end(key)
        return self.calls[key](given)

    def _capture(self, key: Shape, network: Network, given: Arguments) -> bool:
        """Record a call if it can be now."""
        if self.broken or key in self._large or not ALONE.acquire(blocking=False):
            return False
        try:
            self._record(key, network, given)
        except torch.OutOfMemoryError:
            self._large.add(key)
            self.calls.clear()  # what they hold may be all that is missing for a plain call
        except RuntimeError as error:
            self.broken = True
            self.calls.clear()
            self.failed(error)
        finally:
            ALONE.release()
        return key in self.calls

    def _record(self, key: Shape, network: Network, given: Arguments) -> None:
        if len(self.calls) >= self.kept:
            self.calls.popitem(last=False)
        if self._pool is None and _on_gpu(given):
            self._pool = torch.cuda.graph_pool_handle()
        self.calls[key] = CapturedCall(network, given, self._pool)


def _on_gpu(given: Arguments) -> bool:
    return any(value is not None and value.device.type == "cuda" for value in given)
