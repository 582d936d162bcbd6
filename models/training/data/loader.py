"""Batches drawn in this process or by helpers of it; what is in one is a function of its step alone."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from typing import TypeVar

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from core.errors import ConfigurationError
from models.training.configs.base import DataConfig, RunConfig
from models.training.data.folder import Folder
from models.training.data.order import Order, order_of
from models.training.data.pictures import draw
from models.training.loop.draws import generator
from models.training.loop.processes import Processes

T = TypeVar("T")

_helpers: list[BaseProcess] = []  # all that this process started: who ended one is asked wherever it was noticed


def parts_of(config: RunConfig, processes: Processes, step: int) -> Iterator[list[int]]:
    """Yield the sample numbers of this process's micro-batches, from `step` on."""
    share = processes.share(config.batch // config.accumulate)
    for start in range(step * config.batch, config.steps * config.batch, config.batch // config.accumulate):
        yield [start + i for i in share]


class Making(Dataset[T | ConfigurationError]):
    """Numbers → what is made of them; or the error, which a helper process would hand over as a traceback."""

    def __init__(self, make: Callable[[list[int]], T]) -> None:
        self.make = make

    def __getitem__(self, numbers: list[int]) -> T | ConfigurationError:
        try:
            return self.make(numbers)
        except ConfigurationError as error:
            return error


def made_ahead(parts: Iterable[list[int]], make: Callable[[list[int]], T], workers: int) -> Iterator[T]:
    """Yield what `make` makes of each list of numbers, in order; `workers` processes make it ahead, none in this one.

    Raises:
        ConfigurationError: what `make` raised.
    """
    # As a list is one item here, the loader must not batch it again.
    loader = DataLoader(
        Making(make),
        sampler=parts,
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=_end_by_parent,
    )
    others = set(active_children())
    with _sigterm_blocked():
        given_by = iter(loader)
    _helpers.extend(set(active_children()) - others)
    for given in given_by:
        if isinstance(given, ConfigurationError):
            raise given
        yield given


@contextmanager
def _sigterm_blocked() -> Iterator[None]:
    """Block SIGTERM in what is started within: torch's pool starts its threads before a helper's first line of ours."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_by_parent(number: int) -> None:  # noqa: ARG001 (as torch calls it)
    """Let SIGTERM of others go by: who ends a process group means the run, which ends its helpers after a step."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


@contextmanager
def helpers_watched() -> Iterator[None]:
    """Say what happened where a helper process is ended from outside: torch raises that from within any line.

    Raises:
        ConfigurationError: a helper was ended.
    """
    try:
        yield
    except RuntimeError as error:
        ended = [helper.exitcode for helper in _helpers if helper.exitcode]
        if not ended:
            raise
        how = signal.Signals(-ended[0]).name if ended[0] < 0 else f"exit code {ended[0]}"
        detail = f"a helper process was ended from outside ({how}); where memory or /dev/shm is short, fewer "
        raise ConfigurationError(f"{detail}data.workers need less of it", field="data.workers") from error
    finally:
        _helpers.clear()


def _as_it_is(made: T) -> T:
    return made


def picture_batches(
    config: RunConfig, folder: Folder, processes: Processes, step: int
) -> Iterator[tuple[Sequence[int], Tensor]]:
    """Yield sample numbers and pictures b 3 H W (uint8) of this process's micro-batches, from `step` on.

    Raises:
        ConfigurationError: a picture can't be read.
    """
    order = order_of(folder, config.data, config.seed, config.steps * config.batch)

    def pictures(numbers: list[int]) -> Tensor:
        return torch.stack([_picture(folder, config, order, n) for n in numbers])

    made = made_ahead(parts_of(config, processes, step), pictures, config.data.workers)
    yield from zip(parts_of(config, processes, step), made, strict=True)


def _picture(folder: Folder, config: RunConfig, order: Order, number: int) -> Tensor:
    pixels = draw(folder, order.index(number), config.data, generator(config.seed, "draw", number)).pixels
    return torch.from_numpy(rearrange(pixels, "h w c -> c h w"))


def fixed_pictures(folder: Folder, config: DataConfig, seed: int, count: int) -> Tensor:
    """Draw pictures spread over a folder, always the same: b 3 H W in [−1, 1]."""
    return centred(fixed_bytes(folder, config, seed, count))


def fixed_bytes(folder: Folder, config: DataConfig, seed: int, count: int) -> Tensor:
    """Draw what `fixed_pictures` does, as uint8."""
    indices = spread(len(folder.items), count)
    drawn = [draw(folder, i, config, generator(seed, "fixed", i)).pixels for i in indices]
    return torch.from_numpy(rearrange(np.stack(drawn), "b h w c -> b c h w"))


def spread(total: int, count: int) -> list[int]:
    """Return `count` of `total` positions, or all, at equal distances."""
    return [int(i) for i in np.linspace(0, total - 1, min(count, total))]


def centred(pixels: Tensor) -> Tensor:
    """Map uint8 to [−1, 1]."""
    return pixels.float() / 127.5 - 1


def floats(pictures: Tensor) -> Tensor:
    """Return pictures, uint8 or about [−1, 1], in [−1, 1]."""
    return centred(pictures) if pictures.dtype == torch.uint8 else pictures.float().clamp(-1, 1)


def as_bytes(x: Tensor) -> Tensor:
    """Return pictures about [−1, 1] as files hold them, uint8."""
    return ((x.float().clamp(-1, 1) + 1) * 127.5).round().byte()


def eight_bit(x: Tensor) -> Tensor:
    """Return pictures in [−1, 1] as they are once files held them."""
    return centred(as_bytes(x))
