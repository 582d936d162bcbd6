"""A network whose kernels inductor fused, for each shape of a call: made beside the work, used once it agreed.

GroupNorm + SiLU and GEGLU read and write every activation several times; fused, once. What is made lies in the folder
that TORCHINDUCTOR_CACHE_DIR names, from which a restarted worker has it in seconds.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from threading import Lock, Thread
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

AGREES = {torch.float32: 1e-3, torch.bfloat16: 0.02, torch.float16: 0.02}  # |fused − plain| / |plain| of an output
KEPT = 32  # shapes that are made at most; others run plainly
OF_ALL = 1_000_000  # of all networks of a process, however many: the compiler counts their shapes together, to 8 or 256

# A compiler waits for the whole device to try its kernels, which ends every recording of a CUDA graph, and its own
# work, too: of the two a process does one at a time.
ALONE = Lock()

Arguments: TypeAlias = Sequence[Tensor | None]
Shape: TypeAlias = tuple[object, ...]


class Disagreement(ArithmeticError):
    """A fused network's output is another one."""


class FusedNetwork:
    """One network's fused twin, with the same weights; `has` tells for which shapes it is there.

    One shape at a time is made on a thread, so that no call waits for it. What fails, or doesn't agree with the plain
    network, ends the making: `failed` is told why, and what is there goes on being used. A shape for which memory was
    short is left alone.
    """

    def __init__(self, network: nn.Module, failed: Callable[[Exception], None]) -> None:
        # The plain one has rows' LoRAs hooked into it while calls run, which a tracing thread would see.
        self._plain = _twin(network)
        self._fused: Callable[..., Tensor] | None = None
        self._failed = failed
        self._ready: set[Shape] = set()
        self._left: set[Shape] = set()
        self._maker: Thread | None = None
        self.broken = False

    def __call__(self, *given: Tensor | None) -> Tensor:
        """Return the output for a shape that is there."""
        if self._fused is None:
            raise ValueError("nothing was made")
        out: Tensor = self._fused(*given)
        return out

    def has(self, shape: Shape) -> bool:
        """Tell whether calls of this shape may run."""
        return shape in self._ready

    def begin(self, shape: Shape, given: Arguments) -> None:
        """Begin to make a shape that isn't there, unless something is being made."""
        busy = self._maker is not None and self._maker.is_alive()
        known = shape in self._ready or shape in self._left
        if not (busy or known or self.broken or ALONE.locked()) and len(self._ready) < KEPT:
            self._begin(shape, given)

    @property
    def there(self) -> int:
        """How many shapes are."""
        return len(self._ready)

    def wait(self) -> None:
        """Wait for what is being made, as benchmarks and tests do."""
        if self._maker is not None:
            self._maker.join()

    def _begin(self, shape: Shape, given: Arguments) -> None:
        own = [None if value is None else value.clone() for value in given]
        stream = _stream_after_this(own)
        self._maker = Thread(target=self._make, args=(shape, own, stream), name="fusing", daemon=True)
        self._maker.start()

    def _make(self, shape: Shape, given: Arguments, stream: Any) -> None:
        with ALONE:  # until the error of a failure is gone, too, which holds the tensors of its calls
            self._try(shape, given, stream)

    def _try(self, shape: Shape, given: Arguments, stream: Any) -> None:
        try:
            if self._compare(given, stream):
                self._ready.add(shape)
        except torch.OutOfMemoryError as error:
            self._left.add(shape)
            self._failed(error)
        except Exception as error:  # whatever a compiler says: pictures are drawn without it
            self.broken = True
            self._failed(error)

    def _compare(self, given: Arguments, stream: Any) -> bool:
        """Tell whether the outputs agree; a plain one that isn't finite, as of a broken picture, says nothing."""
        # One making serves calls of any number of rows but one, which compilers take for a special case.
        for value in given:
            if value is not None and len(value) > 1:
                torch._dynamo.maybe_mark_dynamic(value, 0)
        if self._fused is None:  # here, since the compiler itself takes seconds to import
            self._fused = torch.compile(self._plain, dynamic=False)
        # Beyond its limit, which each thread has anew, the compiler runs the plain network and tells no caller.
        limit = torch._dynamo.config.patch(recompile_limit=OF_ALL, accumulated_recompile_limit=OF_ALL)
        # Inference mode is part of what a fused call is made for: in another mode it would be made again.
        with limit, torch.inference_mode(), _on(stream):
            fused, plain = self._fused(*given), self._plain(*given)
            if finite := bool(plain.isfinite().all()):
                _agree(fused, plain)
        return finite


def making() -> bool:
    """Tell whether a thread of this process is making something."""
    return ALONE.locked()


def settled() -> bool:
    """Wait for what a thread is making; tell whether one was: memory that lacked meanwhile may be there again."""
    if not making():
        return False
    with ALONE:
        return True


def _twin(network: nn.Module) -> nn.Module:
    """Copy a network's modules but not its weights."""
    weights = [*network.parameters(), *network.buffers()]
    return copy.deepcopy(network, {id(weight): weight for weight in weights})


def _agree(fused: Tensor, plain: Tensor) -> None:
    apart = (fused.float() - plain.float()).norm() / plain.float().norm()
    bound = AGREES[plain.dtype]
    if not apart <= bound:  # nan, too
        raise Disagreement(f"the fused network's output is {float(apart):.1e} of its size away; {bound} is allowed")


def _stream_after_this(given: Arguments) -> Any:
    """Return a stream of a GPU that goes on where the current one is now; None elsewhere."""
    devices = [value.device for value in given if value is not None and value.device.type == "cuda"]
    if not devices:
        return None
    stream = torch.cuda.Stream(devices[0])  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(devices[0]))
    return stream


def _on(stream: Any) -> Any:
    return torch.cuda.stream(stream)  # of None: does nothing
