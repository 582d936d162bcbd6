"""LoRA files: kohya's, PEFT's and diffusers' layouts read into one, and what is of another kind named."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from core.errors import CheckpointError
from models.add_ons.loras.names import PREFIXES, Place, Places, normal
from models.add_ons.loras.scaling import OWN, Scaling, scalings
from models.checkpoints.files.weights import holds_safetensors, read_metadata, read_tensors, understood
from models.networks.adapters import LowRank

UNSERVED: tuple[tuple[str, str], ...] = (
    (r"\.hada_w1_|\.hada_t1", "LoHa"),
    (r"\.lokr_w", "LoKr"),
    (r"\.dora_scale$|lora_magnitude_vector", "DoRA"),
    (r"\.oft_|\.boft_", "OFT"),
    (r"\.lora_mid\.", "LoCon of Tucker's decomposition (lora_mid)"),
    (r"\.diff(_b)?$", "whole weights (diff), beside low-rank ones"),
    (r"\.[wb]_norm$", "trained norms (w_norm)"),
    (r"^bundle_emb\.", "an embedding inside a LoRA (bundle_emb)"),
    (r"\.on_input$|^lora_(unet|te\d?)_[^.]+\.weight$", "(IA)³"),
)
# A layer's name, and which of its matrices it is.
MATRIX = re.compile(
    r"^(?P<layer>.+?)(?:"
    r"\.lora_(?P<peft>A|B)(?:\.\w+)?\.weight"
    r"|\.lora_(?P<kohya>down|up)\.weight"
    r"|(?:\.lora|\.lora_linear_layer|_lora)\.(?P<old>down|up)\.weight"
    r"|(?:\.lora|_lora)?\.(?P<alpha>alpha))$"
)
TEXT_LAYER = re.compile(r"^(te\d:)(?:text_model_)?encoder_layers_\d+_")


@dataclass(slots=True)
class Matrices:
    """What a file has of one layer; alpha None: it isn't there, and is the rank."""

    key: str  # the first of the file's own
    tensors: dict[str, Tensor] = field(default_factory=dict)  # down, up
    alpha: float | None = None
    root: bool = False  # the product is scaled by α/√r

    @property
    def rank(self) -> int:
        return len(self.tensors["down"])

    @property
    def scale(self) -> float:
        alpha = self.rank if self.alpha is None else self.alpha
        return alpha / (math.sqrt(self.rank) if self.root else self.rank)


@dataclass(frozen=True, slots=True)
class LoraFile:
    """A file's layers by their `normal` names, and what its header says beside them."""

    path: Path
    layers: Mapping[str, Matrices]
    metadata: Mapping[str, str]

    @property
    def rank(self) -> int:
        return max(layer.rank for layer in self.layers.values())

    @property
    def networks(self) -> set[str]:
        return {name.partition(":")[0] for name in self.layers}

    @property
    def context_width(self) -> int | None:
        """Width of what its cross-attention reads; None if it changes none of that."""
        keys = (name for name in self.layers if re.search(r"attn2_to_[kv]$", name))
        return next((self.layers[name].tensors["down"].shape[1] for name in keys), None)


def read_lora(path: Path, *, data: bool = True) -> LoraFile:
    """Read a file of any layout; without `data` large tensors are shapes alone.

    Raises:
        CheckpointError: it is damaged, no LoRA, or of a kind that isn't served, by that kind's name.
    """
    with understood(path):
        state = read_tensors(path, data=data)
        refuse_unserved(path, state)
        metadata = read_metadata(path) if holds_safetensors(path) else {}
        return LoraFile(path, _layers(path, state, metadata), metadata)


def refuse_unserved(path: Path, keys: Iterable[str]) -> None:
    """Look at a file's keys.

    Raises:
        CheckpointError: some are of a kind that isn't served.
    """
    names = list(keys)
    for pattern, kind in UNSERVED:
        if (key := next((name for name in names if re.search(pattern, name)), None)) is not None:
            raise CheckpointError(f"{path}: {kind} is not served (its key {key}); LoRA and LoCon are", field=key)


def is_lora(keys: Iterable[str]) -> bool:
    """Tell files of adapters, of kinds that aren't served too, by their keys."""
    names = list(keys)
    return any(MATRIX.match(name) for name in names if not name.endswith(".alpha")) or any(
        re.search(pattern, name) for pattern, _ in UNSERVED[:4] for name in names
    )


def _layers(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Matrices]:
    said = scalings(path, metadata)
    found: dict[str, Matrices] = {}
    for key, value in state.items():
        match = MATRIX.match(key)
        if match is None:
            raise CheckpointError(f"{path}: {key} is no matrix of a LoRA", field=key)
        prefix = next(prefix for prefix in PREFIXES if key.startswith(prefix))
        layer = match["layer"].removeprefix(prefix).replace(".processor.", ".")
        name, scaling = normal(PREFIXES[prefix], layer), said.get(prefix, Scaling())
        matrices = found.setdefault(name, Matrices(key, alpha=scaling.alpha_of(layer), root=scaling.root))
        if match["alpha"]:
            matrices.alpha = float(value.float())
        else:
            side = match["kohya"] or match["old"] or {"A": "down", "B": "up"}[match["peft"]]
            matrices.tensors[side] = value
    _check_pairs(path, found)
    return found


def _check_pairs(path: Path, layers: Mapping[str, Matrices]) -> None:
    for matrices in layers.values():
        missing = {"down", "up"} - matrices.tensors.keys()
        if missing:
            raise CheckpointError(f"{path}: {matrices.key} lacks its {missing.pop()} matrix", field=matrices.key)
        down, up = matrices.tensors["down"], matrices.tensors["up"]
        if down.ndim < 2 or up.ndim < 2 or up.shape[1] != len(down):
            shapes = f"{list(up.shape)} and {list(down.shape)}"
            raise CheckpointError(f"{path}: {matrices.key}: {shapes} make no product", field=matrices.key)
        if up[0, 0].numel() != 1:
            raise CheckpointError(f"{path}: {matrices.key}: an up matrix of {list(up.shape)} is not served")
        if matrices.key.startswith(OWN) and matrices.alpha is None:
            detail = (
                f"{path}: PEFT's own file, and nothing says its alpha: keep it as adapter_model.safetensors beside "
            )
            raise CheckpointError(f"{detail}its adapter_config.json, in a folder", field=matrices.key)
    if not layers:
        raise CheckpointError(f"{path}: no matrix of a LoRA in it")


def fit(
    file: LoraFile, places: Places, shapes: Mapping[tuple[str, str], torch.Size]
) -> dict[tuple[str, str], dict[int, Matrices]]:
    """Find the layers of a model that a file changes: by network and layer, the matrices that are fused in it by index.

    `shapes` are those of the model's weights by network and layer.

    Raises:
        CheckpointError: naming a key that has no place in the model or doesn't fit it.
    """
    found: dict[tuple[str, str], dict[int, Matrices]] = {}
    for name, matrices in file.layers.items():
        place = places.get(name)
        if place is None:
            if _beyond(name, places):
                continue
            raise CheckpointError(f"{file.path.name}: the model has no place for {matrices.key}", field=matrices.key)
        shape = shapes[place.part, place.layer]
        _check_shape(file, matrices, place, shape)
        found.setdefault((place.part, place.layer), {})[place.index] = matrices
    return found


def _beyond(name: str, places: Places) -> bool:
    """Tell layers of a text tower above the last one that is computed: the penultimate state needs none of the last."""
    match = TEXT_LAYER.match(name)
    return (
        match is not None
        and any(known.startswith(match[1]) for known in places)
        and not any(known.startswith(match[0]) for known in places)
    )


def _check_shape(file: LoraFile, matrices: Matrices, place: Place, shape: torch.Size) -> None:
    down, up = matrices.tensors["down"], matrices.tensors["up"]
    wanted = (shape[0] // place.count, shape[1], shape[2:].numel())
    got = (len(up), down.shape[1], down.shape[2:].numel())
    if got != wanted:
        what = f"is for a layer of {got[1]} to {got[0]} channels; the model's has {wanted[1]} to {wanted[0]}"
        kernel = "" if got[2] == wanted[2] else f", kernels of {got[2]} and {wanted[2]} values"
        raise CheckpointError(f"{file.path.name}: {matrices.key} {what}{kernel}", field=matrices.key)


def low_rank(fused: Mapping[int, Matrices], count: int, shape: torch.Size) -> LowRank:
    """Make a layer's product, α/r included, of the matrices that are fused in it: beside one another on the rank."""
    width = shape[0] // count
    downs, ups = [], []
    for index, matrices in sorted(fused.items()):
        down, up = (matrices.tensors[side].float() for side in ("down", "up"))
        whole = torch.zeros(len(down), shape[0])
        whole[:, index * width : (index + 1) * width] = up.flatten(1).T * matrices.scale
        downs.append(down.reshape(len(down), *shape[1:]))
        ups.append(whole)
    return LowRank(torch.cat(downs), torch.cat(ups))
