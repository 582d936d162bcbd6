"""What the network is asked for at each timestep, and how much each timestep weighs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models.schedule import NoiseSchedule, Prediction

FLOOR = 0.05


def noised(x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return z_t = α·x0 + σ·noise (Ho et al. 2020, Eq. 4); alpha and sigma: b 1 1 1."""
    return alpha * x0 + sigma * noise


def target(prediction: Prediction, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return what the network should answer: eps, x0, or v = α·noise − σ·x0 (Salimans & Ho 2022, App. D)."""
    if prediction == "eps":
        return noise
    return x0 if prediction == "x0" else alpha * noise - sigma * x0


def timestep_weights(schedule: NoiseSchedule, min_snr: float | None, floor: float | None) -> Tensor:
    """Return the weight of each timestep's squared error, T, float32.

    min-SNR-γ (Hang et al. 2023, Eq. 8 and App.): the error in x0 weighs min(SNR, γ), which is min(SNR, γ) / SNR of that
    in eps and min(SNR, γ) / (SNR + 1) of that in v. No timestep weighs less than `floor`: pure noise has SNR 0, and
    the first step of sampling starts there. None: FLOOR where the schedule ends in it, else 0.
    """
    signal = schedule.alphas_cumprod
    if min_snr is None:
        return torch.ones(len(signal))
    if floor is None:
        floor = FLOOR if signal[-1] == 0.0 else 0.0
    snr = signal / np.maximum(1 - signal, 1e-12)
    capped = np.minimum(snr, min_snr)
    by = {"x0": 1.0, "v": snr + 1, "eps": np.maximum(snr, 1e-12)}[schedule.config.prediction]
    return torch.tensor(np.maximum(capped / by, floor), dtype=torch.float32)


def signal_and_noise(schedule: NoiseSchedule) -> tuple[Tensor, Tensor]:
    """Return α_t and σ_t of every timestep, T each, rounded from float64."""
    signal = schedule.alphas_cumprod
    return (
        torch.tensor(np.sqrt(signal), dtype=torch.float32),
        torch.tensor(np.sqrt(1 - signal), dtype=torch.float32),
    )
