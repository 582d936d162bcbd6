"""Low-rank adapters (LoRA, Hu et al. 2021) beside the layers of a network that stays as it is, each row with its own.

y_b = W x_b + up_b · (down_b · x_b): the products of a call's rows are added to the outputs of the layers that they
name, so that rows with different adapters, and with none, share one call. Without any the network runs untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """A layer's change up · down of rank r, scale included."""

    down: Tensor  # r c, or r c k k of a convolution
    up: Tensor  # r c'


Layers: TypeAlias = Mapping[str, LowRank]  # by the layer's name in its network


@dataclass(frozen=True, slots=True)
class RowAdapters:
    """What each row of a call has; None: nothing. `apart`: no row is computed together with another, so that its bits
    don't depend on them.
    """

    rows: Sequence[Layers | None]
    apart: bool


@dataclass(frozen=True, slots=True)
class Stretch:
    """Neighbouring rows from `start` on, each with its product."""

    start: int
    products: tuple[LowRank, ...]

    @property
    def rows(self) -> slice:
        return slice(self.start, self.start + len(self.products))

    @property
    def shared(self) -> LowRank | None:
        """The product of all rows, if they have the same one."""
        first = self.products[0]
        return first if all(product is first for product in self.products) else None

    def runs(self) -> Iterator[tuple[slice, LowRank]]:
        """Yield rows with the same product together, counted from the first."""
        start = 0
        for product, run in groupby(self.products):
            rows = slice(start, start + len(list(run)))
            start = rows.stop
            yield rows, product


Add: TypeAlias = Callable[[Any, Tensor, Tensor, Stretch], None]  # a layer's product to its output


@contextmanager
def adapted(network: nn.Module, adapters: RowAdapters | None) -> Iterator[None]:
    """Let the layers of `network` add the rows' products while the context is open.

    Raises:
        AttributeError: the network has no layer of a name.
    """
    rows = adapters.rows if adapters is not None else ()
    names = dict.fromkeys(name for layers in rows if layers is not None for name in layers)
    with ExitStack() as opened:
        for name in names:
            layer = network.get_submodule(name)
            products = [None if layers is None else layers.get(name) for layers in rows]
            stretches = _stretches(products, adapters is not None and adapters.apart)
            add: Add = _add_linear if isinstance(layer, nn.Linear) else _add_conv
            opened.callback(layer.register_forward_hook(partial(_added, add, stretches)).remove)
        yield


def _stretches(products: Sequence[LowRank | None], apart: bool) -> list[Stretch]:
    """Part rows with products from those without; apart: each from the next."""
    if apart:
        return [Stretch(i, (product,)) for i, product in enumerate(products) if product is not None]
    found: list[Stretch] = []
    for i, product in enumerate(products):
        if product is None:
            continue
        if found and found[-1].rows.stop == i:
            found[-1] = Stretch(found[-1].start, (*found[-1].products, product))
        else:
            found.append(Stretch(i, (product,)))
    return found


def _added(add: Add, stretches: Sequence[Stretch], layer: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> Tensor:
    """Add to a layer's output, which is nobody's but the call's."""
    for stretch in stretches:
        add(layer, args[0][stretch.rows], y[stretch.rows], stretch)
    return y


def _add_linear(_layer: nn.Linear, x: Tensor, y: Tensor, stretch: Stretch) -> None:
    """Add to y of x, b … c both."""
    if stretch.shared is None and x.is_cuda:
        _add_gathered(x, y, stretch.products)
        return
    for rows, product in stretch.runs():
        hidden = F.linear(x[rows].reshape(-1, x.shape[-1]), product.down)  # b·n r
        y[rows].view(-1, y.shape[-1]).addmm_(hidden, product.up)


def _add_gathered(x: Tensor, y: Tensor, products: Sequence[LowRank]) -> None:
    """Add all rows' products at once: on GPUs a launch costs more than this copying, on CPUs less."""
    down, up = _gathered(products)
    hidden = torch.bmm(x.reshape(len(x), -1, x.shape[-1]), down.mT)  # b n r
    y.view(len(y), -1, y.shape[-1]).baddbmm_(hidden, up)


def _gathered(products: Sequence[LowRank]) -> tuple[Tensor, Tensor]:
    """Stack the rows' products, b r c and b r c', smaller ranks padded by zeros."""
    rank = max(len(product.down) for product in products)
    pads = [(0, 0, 0, rank - len(product.down)) for product in products]
    down = torch.stack([F.pad(product.down, pad) for product, pad in zip(products, pads, strict=True)])
    return down, torch.stack([F.pad(product.up, pad) for product, pad in zip(products, pads, strict=True)])


def _add_conv(layer: nn.Conv2d, x: Tensor, y: Tensor, stretch: Stretch) -> None:
    """Add to y (b c' h' w') of x (b c h w)."""
    for rows, product in stretch.runs():
        hidden = F.conv2d(x[rows], product.down, None, layer.stride, layer.padding, layer.dilation)  # b r h' w'
        y[rows].add_(F.conv2d(hidden, product.up.T[:, :, None, None]))
