"""Measures of a picture against the one that it should be: PSNR, SSIM, perceptual distance; whole or inside a mask."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from models.features.network import FeatureNetwork, perceptual_distance
from models.training.data.loader import floats

RANGE = 2.0  # of values in [−1, 1]
PART = 8  # pictures at a time
LEAST = 1e-10  # squared error, so that equal pictures have a PSNR: 106 dB


@torch.no_grad()
def paired(
    made: Tensor, real: Tensor, network: FeatureNetwork | None = None, mask: Tensor | None = None
) -> dict[str, float]:
    """Return the means over pictures of PSNR (dB), SSIM and, with a network, its distance, under its own name.

    made and real: b 3 H W, uint8 or in [−1, 1], clamped to it; mask: b 1 H W, 1 where pixels count for PSNR and SSIM.
    A picture whose mask is empty counts for neither.
    """
    where = torch.ones(()).expand(len(real), 1, *real.shape[2:]) if mask is None else mask
    values = defaultdict[str, list[Tensor]](list)
    for a, b, part in zip(*(torch.split(t, PART) for t in (made, real, where)), strict=True):
        x, y, weights = floats(a), floats(b), (part >= 0.5).float()
        measured = weights.flatten(1).sum(1) > 0
        values["PSNR (dB)"].append(psnr(x, y, weights)[measured])
        values["SSIM"].append(ssim(x, y, weights)[measured])
        if network is not None:
            values[distance_name(network)].append(distances(network, x, y))
    return {name: float(torch.cat(parts).mean()) for name, parts in values.items()}


def psnr(made: Tensor, real: Tensor, weights: Tensor) -> Tensor:
    """Return 10·log₁₀(range² / weighted mean squared error) of each picture, b."""
    error = _mean((made - real).square(), weights)
    return 10 * torch.log10(RANGE**2 / error.clamp(min=LEAST))


def ssim(made: Tensor, real: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean of each picture's SSIM map (Wang et al. 2004: Gaussian window, σ = 1.5), b."""
    return _mean(_ssim_map(made, real), weights)


def _ssim_map(made: Tensor, real: Tensor) -> Tensor:
    made, real = (made + 1) / 2, (real + 1) / 2  # its luminance term is of values from 0 on
    found = structural_similarity_index_measure(made, real, data_range=1.0, reduction="none", return_full_image=True)
    assert isinstance(found, tuple)
    return found[1]  # b 3 H W


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """Average b c H W over channels and weighted pixels, b."""
    return (values * weights).sum((1, 2, 3)) / (weights.sum((1, 2, 3)) * values.shape[1])


def distances(network: FeatureNetwork, made: Tensor, real: Tensor) -> Tensor:
    """Return the perceptual distance of each pair, b, on the CPU."""
    place = next(network.parameters()).device
    return perceptual_distance(network, made.to(place), real.to(place)).cpu()


def distance_name(network: FeatureNetwork) -> str:
    """Return LPIPS for LPIPS alone."""
    return "LPIPS" if network.heads() is not None else "perceptual distance"
