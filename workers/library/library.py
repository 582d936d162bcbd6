"""The models of a worker: all that it offers and, of them, those in memory: the least recently used leave for others.

One that isn't in memory is loaded beside the loop, by one thread, once a claimed job asks for it and there is room.
"""

from __future__ import annotations

import gc
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import structlog
import torch

from core.errors import CheckpointError, LatentdError
from models.checkpoints.build import stored_dtype
from models.checkpoints.checkpoint import Checkpoint
from models.checkpoints.layouts.detect import load_checkpoint, loaded_files
from models.checkpoints.load import conditioner_dtype
from models.networks.layers import can_pack
from models.pipeline.config import ModelConfig
from models.pipeline.pipeline import LatentDiffusion
from workers.claim_policy import load_pause
from workers.engine.device import or_none

TRIES = 3  # loads that fail one after another; then the worker offers the model no more
MIB = 1 << 20

Stamps = Mapping[str, tuple[int, int]]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Offered:
    """A checkpoint that can be loaded, as its files tell without their weights being read. `size`: bytes in memory."""

    id: str
    folder: Path
    config: ModelConfig
    token_window: int | None
    device: torch.device
    dtype: torch.dtype
    size: int
    stamps: Stamps

    @property
    def latent_factor(self) -> int:
        return self.config.first_stage.factor

    @property
    def packed(self) -> bool:
        """Whether its UNet's weights are packed once it is loaded."""
        return can_pack(self.device, self.dtype)

    def check(self) -> None:
        """Raise CheckpointError where its files are gone or aren't those that the worker found at its start."""
        if stamps(self.folder) != self.stamps:
            raise CheckpointError(f"{self.folder}: replaced since the worker's start, which published its hash")


def offered(model: str, folder: Path, device: str, dtype: torch.dtype) -> Offered:
    """Look at a checkpoint without reading its weights.

    Raises:
        CheckpointError: naming the file, key or shape that doesn't fit.
    """
    checkpoint, found = load_checkpoint(folder, data=False), stamps(folder)
    window = checkpoint.tokenizers[0].window if checkpoint.tokenizers else None
    size = weights_size(checkpoint, dtype)
    return Offered(model, folder, checkpoint.config, window, torch.device(device), dtype, size, found)


def weights_size(checkpoint: Checkpoint, dtype: torch.dtype) -> int:
    """Count the bytes that its weights take in networks of `dtype`."""
    config = checkpoint.config
    kept: dict[str, torch.dtype | None] = {"first_stage": config.first_stage_dtype(dtype)}
    if config.conditioner is not None:
        kept["conditioner"] = conditioner_dtype(config.conditioner, dtype)
    return sum(
        value.numel() * (kept.get(part, dtype) or stored_dtype(value)).itemsize
        for part, state in checkpoint.states.items()
        for value in state.values()
    )


def stamps(folder: Path) -> Stamps:
    """Tell a checkpoint's weight files by size and time of change.

    Raises:
        CheckpointError: they are gone.
    """
    try:
        return {str(file): (file.stat().st_size, file.stat().st_mtime_ns) for file in loaded_files(folder)}
    except OSError as error:
        raise CheckpointError(f"{folder}: {error}") from error


@dataclass(frozen=True, slots=True)
class Arrival:
    """A load that ended, with `error` if it failed."""

    model: str
    seconds: float
    error: LatentdError | None = None


class ModelLibrary:
    """What a worker offers, and `resident`, those in memory, the least recently used first. Not for threads.

    `budget` bounds the bytes of weights in memory; the models of running jobs stay there whatever else is asked for.
    """

    def __init__(
        self,
        models: Sequence[Offered],
        budget: int,
        load: Callable[[Offered], LatentDiffusion],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.offered: Mapping[str, Offered] = {model.id: model for model in models}  # replaced as a whole
        self.resident: OrderedDict[str, LatentDiffusion] = OrderedDict()
        self.budget = budget
        self.loaded: Callable[[str], None] = lambda _: None  # told of each that was loaded since the start
        self._evicted: list[str] = []
        self._load = load
        self._clock = clock
        self._wanted: str | None = None
        self._leaving: frozenset[str] = frozenset()
        self._failures: dict[str, int] = {}
        self._loading: tuple[str, float, Future[LatentDiffusion]] | None = None
        self._patient_until = 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loading")

    def fill(self, model: str) -> None:
        """Load a model now, if it fits beside those in memory.

        Raises:
            CheckpointError: it doesn't load, or its device lacks memory for it.
        """
        if self._fits(model, self.resident):
            self.resident[model] = self._fetch(model)

    def withdraw(self, model: str) -> None:
        """Offer a model no more."""
        self.offered = {name: each for name, each in self.offered.items() if name != model}

    def names(self) -> list[str]:
        """Return the models that are offered now; for any thread."""
        return list(self.offered)

    def claimable(self, used: Collection[str]) -> list[str]:
        """Return the models whose jobs may be claimed while those of `used` run.

        While one is waited for, it and those that don't have to leave for it. Else all in memory, and the others where
        idle ones can leave for them or, so that moving weights doesn't become the work, the last load is long ago.
        """
        if self._wanted is not None:
            return [*(model for model in self.resident if model not in self._leaving), self._wanted]
        patient = self._clock() < self._patient_until
        cold = [model for model in self.offered if model not in self.resident]
        return [*self.resident, *(model for model in cold if not patient or self._fits(model, used))]

    def holds(self, models: Collection[str]) -> bool:
        """Tell whether these models are offered and fit into memory together."""
        offered = [self.offered[model] for model in models if model in self.offered]
        return len(offered) == len(models) and (len(models) == 1 or sum(each.size for each in offered) <= self.budget)

    @property
    def loading(self) -> bool:
        """Whether a model is under way, of a run that may have ended since."""
        return self._loading is not None

    def lacking(self, models: Collection[str]) -> bool:
        """Tell whether one of these isn't in memory."""
        return any(model not in self.resident for model in models)

    def use(self, models: Collection[str]) -> None:
        """Note that a job of these models begins."""
        for model in models:
            self.resident.move_to_end(model)

    def want(self, models: Collection[str], used: Collection[str]) -> None:
        """Let the models of a job come, one after another, each as soon as those that leave for it have no jobs left;
        `used` have some. None of `models`: no more.
        """
        model = next((model for model in models if model not in self.resident), None)
        self._wanted, self._leaving = model, frozenset()
        if model is None or self._loading is not None:
            return
        changed = self._changed(model)
        if not changed:  # of those that did nothing has to leave: the load fails by name
            self._leaving = self._leavers(model, used, models)
            for name in self._leaving - set(used):
                self._evict(name)
        if changed or self._fits(model, self.resident):
            self._loading = model, self._clock(), self._thread.submit(self._fetch, model)

    def arrived(self) -> Arrival | None:
        """Take in a model whose load has ended; None if none did."""
        if self._loading is None or not self._loading[2].done():
            return None
        (model, began, future), self._loading, self._wanted = self._loading, None, None
        seconds = self._clock() - began
        self._patient_until, self._leaving = self._clock() + load_pause(seconds), frozenset()
        try:
            self.resident[model] = future.result()
        except torch.AcceleratorError:
            raise  # the device is of no use to this process any more
        except Exception as error:
            log.warning("model not loaded", model=model, error=str(error), exc_info=not isinstance(error, LatentdError))
            return Arrival(model, seconds, self._failed(model))
        self._failures.pop(model, None)
        log.info("model loaded", model=model, seconds=seconds, resident=list(self.resident))
        self.loaded(model)
        return Arrival(model, seconds)

    def take_evicted(self) -> list[str]:
        """Return the models that left since the last time."""
        evicted, self._evicted = self._evicted, []
        return evicted

    def close(self) -> None:
        """Wait for a load that runs."""
        self._thread.shutdown(cancel_futures=True)

    def _fetch(self, model: str) -> LatentDiffusion:
        offered = self.offered[model]
        offered.check()
        loaded = or_none(lambda: self._load(offered))
        if loaded is None:
            raise CheckpointError(f"{offered.folder}: its device lacks memory for {-(-offered.size // MIB)} MiB")
        offered.check()  # overwritten meanwhile, it may be half of each
        return loaded

    def _changed(self, model: str) -> bool:
        try:
            self.offered[model].check()
        except CheckpointError:
            return True
        return False

    def _fits(self, model: str, beside: Collection[str]) -> bool:
        return self.offered[model].size + self._size(beside) <= self.budget

    def _size(self, models: Collection[str]) -> int:
        return sum(self.offered[model].size for model in self.resident if model in models)

    def _leavers(self, model: str, used: Collection[str], kept: Collection[str]) -> frozenset[str]:
        """Choose who leaves, of all but `kept`: those without jobs first, of both kinds the least recently used."""
        staying, leaving = list(self.resident), set[str]()
        others = [name for name in self.resident if name not in kept]
        for name in sorted(others, key=lambda name: name in used):
            if self._fits(model, staying):
                break
            staying.remove(name)
            leaving.add(name)
        return frozenset(leaving)

    def _evict(self, model: str) -> None:
        del self.resident[model]
        gc.collect()  # networks and what was captured of them refer to each other
        if self.offered[model].device.type == "cuda":
            torch.cuda.empty_cache()
        self._evicted.append(model)
        log.info("model left memory", model=model, resident=list(self.resident))

    def _failed(self, model: str) -> LatentdError:
        """Count a failure. Paths are the log's; clients are told the model."""
        self._failures[model] = self._failures.get(model, 0) + 1
        if self._failures[model] >= TRIES:
            self.withdraw(model)
            log.error("model offered no more: it didn't load", model=model, tries=TRIES)
        return not_loaded(model)


def not_loaded(model: str) -> CheckpointError:
    """Say what a client is told of a model that doesn't come."""
    detail = f"model {model!r} can't be loaded by the worker that has the job: its files are gone, were replaced "
    return CheckpointError(f"{detail}or don't load", field="model", value=model, bound="a checkpoint that loads")
