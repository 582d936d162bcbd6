"""Which picture a sample shows: a function of the sample's number, so that any process and any resumed run agrees."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Mapping
from functools import lru_cache
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from models.training.configs.base import DataConfig
from models.training.data.folder import Folder, weights_of
from models.training.loop.draws import generator, uniform


class Order:
    """Every picture once an epoch, each epoch in another order; or drawn by weights, which may change in the run."""

    def __init__(self, size: int, seed: int, weights: Mapping[int, list[float]] | None = None) -> None:
        self.size, self.seed = size, seed
        self.starts = sorted(weights or {})  # sample numbers
        self.sums = [list(accumulate((weights or {})[start])) for start in self.starts]
        self._shuffled = lru_cache(maxsize=2)(self._shuffle)

    def index(self, number: int) -> int:
        """Return the picture of sample `number`."""
        phase = bisect_right(self.starts, number) - 1
        if phase < 0:
            return int(self._shuffled(number // self.size)[number % self.size])
        sums = self.sums[phase]
        return min(bisect_right(sums, uniform(self.seed, "order", number) * sums[-1]), self.size - 1)

    def _shuffle(self, epoch: int) -> NDArray[np.int64]:
        return generator(self.seed, "epoch", epoch).permutation(self.size)


def order_digest(folder: Folder, config: DataConfig) -> dict[str, str]:
    """Return what tells one set of pictures' weights from another, by name; nothing where none count.

    Raises:
        ConfigurationError: a column of weights is missing.
    """
    columns = [weights_of(folder, column) for column in config.weights.values()]
    return {"set of weights": hashlib.sha256(json.dumps(columns).encode()).hexdigest()[:16]} if columns else {}


def order_of(folder: Folder, config: DataConfig, seed: int, samples: int) -> Order:
    """Return the order of a run of `samples` samples.

    Raises:
        ConfigurationError: a column of weights is missing.
    """
    weights = {round(share * samples): weights_of(folder, column) for share, column in config.weights.items()}
    return Order(len(folder.items), seed, weights)
