"""What a LoRA file is, for people."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from models.add_ons.loras.files import LoraFile, is_lora, read_lora
from models.add_ons.loras.scan import family_of, trigger_words
from models.checkpoints.files.weights import holds_safetensors, is_weights, read_tensors
from models.checkpoints.inspect import Part, Report


def inspect_lora(path: Path) -> Report | None:
    """Read a LoRA file; None of another.

    Raises:
        CheckpointError: it is damaged, or an adapter of a kind that isn't served, by that kind's name.
    """
    if not is_weights(path) or not is_lora(read_tensors(path, data=False)):
        return None
    file = read_lora(path, data=False)
    layers = len(file.layers)
    facts = {
        "family": family_of(file) or "unknown",
        "layers": f"{layers}, rank {file.rank} at most",
        "trigger words": ", ".join(trigger_words(file.metadata)) or "none given",
    }
    layout = f"LoRA, {'safetensors' if holds_safetensors(path) else 'torch pickle'}"
    notes = ("a LoRA draws by a model's networks: its place is the folder Lora of LATENTD_MODELS_DIR",)
    return Report(path, layout, "Low-rank changes of a model's layers.", (), tuple(_parts(file)), facts, notes)


def _parts(file: LoraFile) -> Iterable[Part]:
    for network in sorted(file.networks):
        layers = [layer for name, layer in file.layers.items() if name.startswith(f"{network}:")]
        tensors: list[Tensor] = [tensor for layer in layers for tensor in layer.tensors.values()]
        dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})
        yield Part(network, sum(math.prod(tensor.shape) for tensor in tensors), tuple(dtypes))
