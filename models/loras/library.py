"""The LoRAs of a worker: read when a job names them, kept for the next while a budget lasts, combined for each job."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
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
from models.loras.files import fit, low_rank, read_lora
from models.loras.names import Places, places
from models.networks.adapters import Layers, LowRank, RowAdapters, adapted
from models.networks.conditioning import TextEncoder
from models.pipeline import LatentDiffusion

BLOCK = 1 << 20  # bytes hashed at a time


class Applied(Protocol):
    """A LoRA as a request names it."""

    @property
    def id(self) -> str: ...
    @property
    def scale(self) -> float: ...
    @property
    def hash(self) -> str: ...


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


@dataclass(frozen=True, slots=True)
class FoundLora:
    """A LoRA on the disk."""

    card: InstalledLora
    path: Path


class LoraLibrary:
    """Makes the adapters of jobs. Not for threads.

    `budget` bounds the bytes of LoRAs that are kept for later jobs; what running jobs use is beside it.
    """

    def __init__(self, found: Mapping[str, FoundLora], budget: int) -> None:
        self._found = dict(found)
        self._budget = budget
        self._loaded: OrderedDict[tuple[str, str], Adapters] = OrderedDict()  # by model and hash, at scale 1
        self._combined: WeakValueDictionary[tuple[str, str], Adapters] = WeakValueDictionary()

    @property
    def ids(self) -> frozenset[str]:
        """The LoRAs that it can load."""
        return frozenset(self._found)

    @property
    def bytes(self) -> int:
        """Size of what is kept."""
        return sum(_bytes(adapters) for adapters in self._loaded.values())

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
        key = (model.id, lora.hash)
        if key not in self._loaded:
            self._loaded[key] = self._load(model, lora)
        self._loaded.move_to_end(key)
        adapters = self._loaded[key]
        while self.bytes > self._budget and self._loaded:
            self._loaded.popitem(last=False)
        return adapters

    def _load(self, model: LatentDiffusion, lora: Applied) -> Adapters:
        found = self._found.get(lora.id)
        if found is None:
            raise CheckpointError(f"lora {lora.id!r} isn't here", field="loras", value=lora.id)
        if (now := current_hash(found)) != lora.hash:
            detail = f"lora {lora.id!r} was replaced since the job was accepted: {lora.hash[:10]} then, {now[:10]} now"
            raise CheckpointError(detail, field="loras", value=lora.id, bound=lora.hash)
        try:
            return load_lora(found.path, model)
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


class Stamped(Protocol):
    """A card of a file, with the hash that it had at a size and time of change."""

    @property
    def hash(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def changed_ns(self) -> int: ...


class OnDisk(Protocol):
    """A file with its card."""

    @property
    def card(self) -> Stamped: ...
    @property
    def path(self) -> Path: ...


def current_hash(found: OnDisk) -> str:
    """Return a file's hash: the card's, unless size or time of change say that it was replaced since.

    Raises:
        CheckpointError: it can't be read.
    """
    try:
        stat = found.path.stat()
        if (stat.st_size, stat.st_mtime_ns) == (found.card.size, found.card.changed_ns):
            return found.card.hash
        return file_hash(found.path)
    except OSError as error:
        raise CheckpointError(f"{found.path}: {error}") from error


def file_hash(path: Path) -> str:
    """Hash (SHA-256) a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
