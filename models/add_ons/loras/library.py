"""The LoRAs of a worker: read when a job names them, kept for the next while a budget lasts, combined for each job."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from contract.card import InstalledLora
from core.errors import CheckpointError
from models.add_ons.loras.files import fit, low_rank, read_lora
from models.add_ons.loras.names import Places, places
from models.add_ons.shelf import Found, Kept, Named, path_of
from models.networks.adapters import Layers, LowRank, RowAdapters, adapted
from models.networks.conditioning import TextEncoder
from models.pipeline.pipeline import LatentDiffusion


class Applied(Named, Protocol):
    """A LoRA as a request names it."""

    @property
    def scale(self) -> float: ...


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Adapters:
    """What a job's LoRAs add up to, by layer: deltas W + Σ scaleᵢ Δᵢ are products side by side. `key` names them."""

    key: str
    unet: Layers
    text: Layers

    def over_text(self, model: LatentDiffusion) -> AbstractContextManager[None]:
        """Let the model's text encoder add its part, to one prompt at a time."""
        assert model.conditioner is not None
        return adapted(model.conditioner, RowAdapters([self.text], apart=True))


class LoraLibrary:
    """Makes the adapters of jobs. Not for threads."""

    def __init__(self, found: Mapping[str, Found[InstalledLora]], kept: Kept) -> None:
        self._found = dict(found)
        self._kept = kept
        self._combined: WeakValueDictionary[tuple[str, str], Adapters] = WeakValueDictionary()

    @property
    def ids(self) -> frozenset[str]:
        """The LoRAs that it can load."""
        return frozenset(self._found)

    def adapters(self, model: LatentDiffusion, applied: Sequence[Applied]) -> Adapters | None:
        """Make what `applied` add to a model, on its device and in its precision; None of none.

        Raises:
            CheckpointError: one isn't there, was replaced since the request was accepted, or doesn't fit the model,
                by its id.
        """
        if not applied:
            return None
        key = " ".join(f"{lora.hash}:{lora.scale!r}" for lora in applied)
        combined = self._combined.get((model.id, key))
        if combined is None:
            parts = [(self._lora(model, lora), lora.scale) for lora in applied]
            unet = _sum([(adapters.unet, scale) for adapters, scale in parts])
            text = _sum([(adapters.text, scale) for adapters, scale in parts])
            combined = self._combined[model.id, key] = Adapters(key, unet, text)
        return combined

    def _lora(self, model: LatentDiffusion, lora: Applied) -> Adapters:
        """Return a LoRA at scale 1."""
        return self._kept.get(("lora", model.id, lora.hash), lambda: self._load(model, lora), _bytes)

    def _load(self, model: LatentDiffusion, lora: Applied) -> Adapters:
        path = path_of(self._found, "lora", "loras", lora.id, lora.hash)
        try:
            return load_lora(path, model)
        except CheckpointError as error:
            raise CheckpointError(f"lora {lora.id!r}: {error.detail}", field="loras", value=lora.id) from error


def load_lora(path: Path, model: LatentDiffusion) -> Adapters:
    """Read a file for a model, at scale 1.

    Raises:
        CheckpointError: it is damaged, of a kind that isn't served, or doesn't fit the model.
    """
    text = model.conditioner if isinstance(model.conditioner, TextEncoder) else None
    table, shapes = places(model.unet, text), _shapes(("unet", model.unet), ("text", text))
    counts = _counts(table)
    layers: dict[str, dict[str, LowRank]] = {"unet": {}, "text": {}}
    for (part, layer), fused in fit(read_lora(path), table, shapes).items():
        product = low_rank(fused, counts[part, layer], shapes[part, layer])
        # Text encoders compute in float32, whatever precision their weights are kept in.
        dtype = model.dtype if part == "unet" else torch.float32
        layers[part][layer] = LowRank(*(_placed(each, model.device, dtype) for each in (product.down, product.up)))
    return Adapters("", layers["unet"], layers["text"])


def _counts(table: Places) -> dict[tuple[str, str], int]:
    return {(place.part, place.layer): place.count for place in table.values()}


def _shapes(*networks: tuple[str, nn.Module | None]) -> dict[tuple[str, str], torch.Size]:
    return {
        (part, name): module.weight.shape
        for part, network in networks
        for name, module in (() if network is None else network.named_modules())
        if isinstance(module, nn.Linear | nn.Conv2d)
    }


def _placed(value: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    layout = torch.channels_last if value.ndim == 4 else torch.contiguous_format
    return value.to(device, dtype, memory_format=layout)


def _sum(parts: Sequence[tuple[Layers, float]]) -> dict[str, LowRank]:
    """Add several LoRAs at their scales: their ranks side by side."""
    names = dict.fromkeys(name for layers, _ in parts for name in layers)
    return {name: _side_by_side([(layers[name], s) for layers, s in parts if name in layers]) for name in names}


def _side_by_side(products: Sequence[tuple[LowRank, float]]) -> LowRank:
    if len(products) == 1:
        [(product, scale)] = products
        return LowRank(product.down, product.up * scale)
    return LowRank(
        torch.cat([product.down for product, _ in products]),
        torch.cat([product.up * scale for product, scale in products]),
    )


def _tensors(adapters: Adapters) -> Iterable[Tensor]:
    for layers in (adapters.unet, adapters.text):
        for product in layers.values():
            yield from (product.down, product.up)


def _bytes(adapters: Adapters) -> int:
    return sum(tensor.nbytes for tensor in _tensors(adapters))
