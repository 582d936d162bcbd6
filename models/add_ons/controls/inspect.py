"""What a ControlNet is, for people."""

from __future__ import annotations

import math
from pathlib import Path

from models.add_ons.controls.files import is_control, is_folder, read_control
from models.add_ons.controls.scan import family_of
from models.checkpoints.files.weights import component_files, holds_safetensors, is_weights, read_tensors
from models.checkpoints.inspect import Part, Report


def inspect_control(path: Path) -> Report | None:
    """Read a ControlNet's file or folder; None of another.

    Raises:
        CheckpointError: it is damaged, or of a kind that isn't served, by that kind's name.
    """
    weights = component_files(path)[0] if path.is_dir() and is_folder(path) else path
    if not is_weights(weights) or not is_control(read_tensors(weights, data=False)):
        return None
    file = read_control(weights, data=False)
    dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in file.state.values()})
    part = Part("ControlNet", sum(math.prod(tensor.shape) for tensor in file.state.values()), tuple(dtypes))
    layout = f"ControlNet, {'safetensors' if holds_safetensors(weights) else 'torch pickle'}"
    facts = {"family": family_of(file) or "unknown", "context width": str(file.context_width)}
    notes = ("a ControlNet leads a model by a picture: its place is the folder ControlNet of LATENTD_MODELS_DIR",)
    return Report(path, layout, "Leads a model by a picture: edges, depth, poses.", (), (part,), facts, notes)
