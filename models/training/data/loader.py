"""Batches of drawn pictures, in this process or by helpers of it; what is in one is a function of its step alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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


def parts_of(config: RunConfig, processes: Processes, step: int) -> Iterator[list[int]]:
    """Yield the sample numbers of this process's micro-batches, from `step` on.

    Raises:
        ConfigurationError: the processes and parts don't divide the batch.
    """
    share = processes.share(config.batch // config.accumulate)
    for start in range(step * config.batch, config.steps * config.batch, config.batch // config.accumulate):
        yield [start + i for i in share]


Pixels = Tensor | ConfigurationError


class Drawing(Dataset[Pixels]):
    """Sample number → picture 3 H W, uint8; or the error, which a helper process would hand over as a traceback."""

    def __init__(self, folder: Folder, config: DataConfig, seed: int, order: Order) -> None:
        self.folder, self.config, self.seed, self.order = folder, config, seed, order

    def __getitem__(self, number: int) -> Pixels:
        rng = generator(self.seed, "draw", number)
        try:
            pixels = draw(self.folder, self.order.index(number), self.config, rng).pixels
        except ConfigurationError as error:
            return error
        return torch.from_numpy(rearrange(pixels, "h w c -> c h w"))


def picture_batches(
    config: RunConfig, folder: Folder, processes: Processes, step: int
) -> Iterator[tuple[Sequence[int], Tensor]]:
    """Yield sample numbers and pictures b 3 H W (uint8) of this process's micro-batches, from `step` on.

    Raises:
        ConfigurationError: a picture can't be read.
    """
    order = order_of(folder, config.data, config.seed, config.steps * config.batch)
    drawing = Drawing(folder, config.data, config.seed, order)
    loader = DataLoader(
        drawing,
        batch_sampler=parts_of(config, processes, step),
        num_workers=config.data.workers,
        collate_fn=_stacked,
    )
    yield from zip(parts_of(config, processes, step), map(_given, loader), strict=True)


def _stacked(drawn: list[Pixels]) -> Pixels:
    wrong = next((pixels for pixels in drawn if isinstance(pixels, ConfigurationError)), None)
    return wrong or torch.stack([pixels for pixels in drawn if isinstance(pixels, Tensor)])


def _given(pixels: Pixels) -> Tensor:
    if isinstance(pixels, ConfigurationError):
        raise pixels
    return pixels


def fixed_pictures(folder: Folder, config: DataConfig, seed: int, count: int) -> Tensor:
    """Draw the first pictures of a folder, always the same: b 3 H W in [−1, 1]."""
    indices = np.linspace(0, len(folder.items) - 1, min(count, len(folder.items))).astype(int)
    drawn = [draw(folder, int(i), config, generator(seed, "fixed", int(i))).pixels for i in indices]
    return centred(torch.from_numpy(rearrange(np.stack(drawn), "b h w c -> b c h w")))


def centred(pixels: Tensor) -> Tensor:
    """Map uint8 to [−1, 1]."""
    return pixels.float() / 127.5 - 1
