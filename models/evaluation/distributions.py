"""Measures of sets of pictures, by one vector of each: Fréchet and kernel distance, precision and recall."""

from __future__ import annotations

from collections.abc import Sized

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

from core.errors import ConfigurationError

NEIGHBOURS = 3  # k of precision and recall (Kynkäänniemi et al. 2019)
SUBSETS, SUBSET = 50, 1000  # of the kernel distance: how many, of how many pictures at most
FEWEST = NEIGHBOURS + 2  # pictures on each side


class _Vectors(nn.Module):
    """Hands features on: the library's measures take the network that makes them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features


def distances(made: Tensor, real: Tensor, seed: int) -> tuple[float, float]:
    """Return the Fréchet distance and the kernel distance (cubic MMD², unbiased) of features n d and m d.

    They are FID (Heusel et al. 2017) and KID (Bińkowski et al. 2018) where the features are Inception's, and only then.

    Raises:
        ConfigurationError: there are too few pictures.
    """
    check_enough(made, real)
    frechet = FrechetInceptionDistance(feature=_Vectors(made.shape[1])).set_dtype(torch.float64)
    frechet.update(real.double(), real=True)
    frechet.update(made.double(), real=False)
    return float(frechet.compute()), _kernel(made.double(), real.double(), seed)


def _kernel(made: Tensor, real: Tensor, seed: int) -> float:
    """Average MMD² over random subsets; over all pictures at once where they are no more than one subset."""
    size = min(SUBSET, len(made), len(real))
    rounds = 1 if size == max(len(made), len(real)) else SUBSETS
    chance = torch.Generator().manual_seed(seed)
    chosen = [[torch.randperm(len(f), generator=chance)[:size] for f in (made, real)] for _ in range(rounds)]
    return float(torch.stack([poly_mmd(made[i], real[j]) for i, j in chosen]).mean())


def precision_recall(made: Tensor, real: Tensor) -> tuple[float, float]:
    """Return the share of made pictures among the real ones and of real ones among the made (Kynkäänniemi et al. 2019).

    A picture is among others if it is no further from one of them than that one's k-th neighbour of its own kind.

    Raises:
        ConfigurationError: there are too few pictures.
    """
    check_enough(made, real)
    return _among(made.double(), real.double()), _among(real.double(), made.double())


def _among(points: Tensor, others: Tensor) -> float:
    radii = torch.cdist(others, others).kthvalue(NEIGHBOURS + 1).values  # the nearest is the picture itself
    return float((torch.cdist(points, others) <= radii).any(dim=1).double().mean())


def check_enough(made: Sized, real: Sized) -> None:
    """Check that sets of pictures can be compared.

    Raises:
        ConfigurationError: there are too few pictures.
    """
    fewer = min(len(made), len(real))
    if fewer < FEWEST:
        detail = f"{fewer} pictures are compared with {max(len(made), len(real))}; distances need {FEWEST} on each side"
        raise ConfigurationError(detail, field="limit", value=fewer, bound=FEWEST)
