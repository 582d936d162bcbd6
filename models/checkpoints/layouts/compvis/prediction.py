"""Whether a network predicts eps or v: what a single file tells of it, and one call of the network where none does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from core.errors import CheckpointError
from models.checkpoints.layouts.compvis.single_file import SingleFile
from models.schedule import Prediction

# Stability's ModelSpec, which trainers write into the header of .safetensors.
SPEC_PREDICTION, SPEC_ARCHITECTURE = "modelspec.prediction_type", "modelspec.architecture"
SPEC_NAMES: Mapping[str, Prediction] = {
    "epsilon": "eps",
    "eps": "eps",
    "v": "v",
    "v_prediction": "v",
    "sample": "x0",
}
ARCHITECTURES: Mapping[str, Prediction] = {
    "stable-diffusion-v2-512": "eps",
    "stable-diffusion-v2-inpainting": "eps",
    "stable-diffusion-v2-768-v": "v",
}
SCALINGS: Mapping[str, Prediction] = {"EpsScaling": "eps", "VScaling": "v"}
V_MARKER, ZERO_SNR_MARKER = "v_pred", "ztsnr"  # empty tensors that merging tools put beside the weights
ALIKE = 0.5  # correlation of output and noise above which a network predicts the noise


def told_prediction(file: SingleFile) -> Prediction | None:
    """Read it from the file's marker keys or its metadata; None where neither says."""
    if V_MARKER in file.state:
        return "v"
    said = file.metadata.get(SPEC_PREDICTION, "").strip().lower().replace("-", "_")
    architecture = file.metadata.get(SPEC_ARCHITECTURE, "").strip().lower()
    return SPEC_NAMES.get(said) or ARCHITECTURES.get(architecture)


def told_by_scaling(params: Mapping[str, Any]) -> Prediction | None:
    """Read it from a config of SDXL's code beside the file, which says it by the denoiser's scaling.

    Raises:
        CheckpointError: the network was trained on EDM's noise levels.
    """
    for option in ("denoiser_config", "params", "scaling_config", "target"):
        params = params.get(option, {}) if isinstance(params, Mapping) else {}
    name = str(params or "").rpartition(".")[2]
    if "EDM" in name:
        raise CheckpointError(f"denoiser: {name} is for networks trained on EDM's noise; eps and v are supported")
    return SCALINGS.get(name)


def tell_prediction(predict: Callable[[Tensor], Tensor], channels: int, side: int) -> Prediction:
    """Decide between eps and v by one call at the last timestep, where z_t is all but pure noise.

    There eps ≈ z_t, while v ≈ −x0 has next to nothing of it. `predict` takes z_t, 1 c h w.
    """
    z_t = torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(0))  # 1 c h w
    both = torch.stack([z_t.flatten(), predict(z_t).cpu().float().flatten()])
    return "eps" if float(torch.corrcoef(both)[0, 1]) > ALIKE else "v"
