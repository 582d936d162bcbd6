"""Losses of reconstructions, each one number a picture."""

from __future__ import annotations

import torch
from torch import Tensor

from models.features.network import FeatureNetwork, perceptual_distance
from models.training.configs.autoencoder import LossConfig

DIMS = (1, 2, 3)


def reconstruction_losses(
    config: LossConfig, features: FeatureNetwork | None, r: Tensor, x: Tensor
) -> dict[str, Tensor]:
    """Return every loss between reconstruction and picture that weighs anything, b each; r and x: b 3 H W."""
    difference = r - x
    losses = {"l1": difference.abs().mean(DIMS), "l2": difference.square().mean(DIMS), "edge": edge(difference)}
    if config.perceptual and features is not None:
        losses["perceptual"] = perceptual_distance(features, r, x)
    return {name: loss for name, loss in losses.items() if getattr(config, name)}


def edge(difference: Tensor) -> Tensor:
    """Return the mean absolute difference between neighbours, across and down, b."""
    across = (difference[..., 1:] - difference[..., :-1]).abs().mean(DIMS)
    return across + (difference[..., 1:, :] - difference[..., :-1, :]).abs().mean(DIMS)


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """Return KL(q(z|x) ‖ N(0, 1)) of each picture, b, summed over its latent."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(DIMS)


def unit_penalty(z: Tensor) -> Tensor:
    """Return how far a picture's latents are from mean 0 and variance 1, a number of each picture, b."""
    return z.mean((2, 3)).square().mean(1) + (z.var((2, 3), correction=0) - 1).abs().mean(1)


def psnr(r: Tensor, x: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each picture in dB, b; both in [−1, 1], r clamped to it."""
    return 10 * torch.log10(4 / (r.float().clamp(-1, 1) - x).square().mean(DIMS).clamp(min=1e-10))
