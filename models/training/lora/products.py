"""The low-rank products that are trained, beside the layers of a model that stays as it is.

They are added by the code that serves LoRAs, so that what is trained is what will be drawn with.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from copy import deepcopy
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import ConfigurationError
from models.add_ons.loras.names import Part, Place, layers
from models.inputs import Inputs
from models.networks.adapters import LowRank, RowAdapters, adapted
from models.networks.conditioning import TextEncoder
from models.pipeline.denoiser import Denoiser
from models.pipeline.pipeline import LatentDiffusion
from models.training.configs.diffusion import LoraRun

ATTENTION = re.compile(r"attn|attention")
M = TypeVar("M", bound=nn.Module)


class Shared:
    """The model beside the products; copies of these, as their moving average is, share it."""

    def __init__(self, model: LatentDiffusion) -> None:
        self.model = model

    def __deepcopy__(self, memo: dict[int, Any]) -> Shared:
        return self


class Product(nn.Module):
    """up · down of one matrix, at first zero."""

    def __init__(self, place: Place, network: str, name: str, layer: nn.Linear | nn.Conv2d, rank: int) -> None:
        super().__init__()
        self.place, self.network, self.name = place, network, name
        self.down = nn.Parameter(torch.empty(rank, *layer.weight.shape[1:]))
        self.up = nn.Parameter(torch.zeros(layer.weight.shape[0] // place.count, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))


class Products(nn.Module):
    """All products of a run, and the forward pass of the model with them."""

    def __init__(self, model: LatentDiffusion, run: LoraRun) -> None:
        super().__init__()
        self.shared = Shared(model)
        self.scale = 1.0 if run.alpha is None else run.alpha / run.rank
        self.text = run.text
        self.products = nn.ModuleList(_products(model, run))
        if not self.products:
            raise ConfigurationError(f"targets {run.targets}: the model has no such layer", field="targets")

    def forward(self, z_t: Tensor, timesteps: Tensor, given: dict[str, Tensor]) -> Tensor:
        """Return the raw prediction b c h w; given: `context` b n d, or `ids` and `mask` b n; `concat` b k h w."""
        model, rows = self.shared.model, len(z_t)
        context = given.get("context")
        if context is None:
            assert isinstance(model.conditioner, TextEncoder)
            with adapted(model.conditioner, RowAdapters([self.changes("text")] * rows, apart=False)):
                context = model.conditioner([(given["ids"], given["mask"])]).context
        inputs = Inputs(context=context, concat=given.get("concat"))
        denoiser = Denoiser(model.unet, z_t.device, torch.float32)
        return denoiser(z_t, timesteps, inputs, RowAdapters([self.changes("unet")] * rows, apart=False))

    def changes(self, part: Part) -> dict[str, LowRank]:
        """Return the products of a network by its layers, those of matrices that are fused in one side by side."""
        found: dict[str, list[Product]] = {}
        for product in self:
            if product.place.part == part:
                found.setdefault(product.place.layer, []).append(product)
        return {layer: self._beside(fused) for layer, fused in found.items()}

    def _beside(self, fused: list[Product]) -> LowRank:
        ups = []
        for product in fused:
            width, place = len(product.up), product.place
            padding = (place.index * width, (place.count - 1 - place.index) * width)
            ups.append(F.pad(product.up.T * self.scale, padding))
        up = torch.cat(ups)  # r c'
        kind = up.device.type
        # What adds in place isn't covered by autocast.
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else up.dtype
        return LowRank(torch.cat([product.down for product in fused]), up.to(dtype))

    def __iter__(self) -> Iterator[Product]:
        for product in self.products:
            assert isinstance(product, Product)
            yield product

    @torch.no_grad()
    def merged(self, network: M, part: Part) -> M:
        """Return a copy of a network with the products added to its weights."""
        made = deepcopy(network)
        for name, product in self.changes(part).items():
            weight = made.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            weight += torch.einsum("r o, r ... -> o ...", product.up, product.down)
        return made


def _products(model: LatentDiffusion, run: LoraRun) -> Iterator[Product]:
    text = model.conditioner if run.text and isinstance(model.conditioner, TextEncoder) else None
    networks: dict[str, nn.Module | None] = {"unet": model.unet, "text": text}
    for place, network, name in layers(model.unet, text):
        holder = networks[place.part]
        assert holder is not None
        layer = holder.get_submodule(place.layer)
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        if _chosen(run, place, layer):
            yield Product(place, network, name, layer, run.rank)


def _chosen(run: LoraRun, place: Place, layer: nn.Linear | nn.Conv2d) -> bool:
    if run.targets == "all":
        return True
    return isinstance(layer, nn.Linear) and (run.targets == "linear" or ATTENTION.search(place.layer) is not None)
