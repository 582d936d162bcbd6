"""Products beside layers: equal to changed weights, whatever rows share a call, and gone after it."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from models.networks.adapters import Layers, LowRank, RowAdapters, adapted
from models.networks.adapters import _add_gathered as add_gathered


class Network(nn.Module):
    """A linear layer after two convolutions, one strided, one without kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.point = nn.Conv2d(6, 6, 1)
        self.linear = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.point(self.conv(x)).flatten(2).mT)  # type: ignore[no-any-return]  # b n 5


def _network() -> Network:
    torch.manual_seed(0)
    return Network().eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _layers(seed: int, rank: int, *names: str) -> dict[str, LowRank]:
    """Products of a rank for these layers, all of them if none is named."""
    torch.manual_seed(seed)
    made = {}
    for name, layer in _network().named_children():
        if not names or name in names:
            weight = layer.weight
            assert isinstance(weight, Tensor)
            made[name] = LowRank(torch.randn(rank, *weight.shape[1:]), torch.randn(rank, len(weight)))
    return made


def _merged(layers: Layers) -> Network:
    """The network with the products in its weights."""
    network = deepcopy(_network())
    for name, product in layers.items():
        layer = network.get_submodule(name)
        assert isinstance(layer.weight, Tensor)
        layer.weight += (product.up.T @ product.down.flatten(1)).view(layer.weight.shape)
    return network


@pytest.mark.parametrize("apart", [False, True])
def test_each_row_has_the_output_of_weights_with_its_own_product(apart: bool) -> None:
    first, second, third = _layers(1, 2), _layers(2, 4, "linear"), _layers(3, 1, "conv", "point")
    rows: list[Layers | None] = [first, first, None, second, third, first, None, second]
    x = torch.randn(8, 3, 9, 7).to(memory_format=torch.channels_last)
    network = _network()
    with torch.inference_mode():
        with adapted(network, RowAdapters(rows, apart)):
            together = network(x)
        for i, layers in enumerate(rows):
            torch.testing.assert_close(together[i], _merged(layers or {})(x[i : i + 1])[0], rtol=1e-4, atol=1e-5)


def test_apart_a_rows_bits_depend_on_no_other() -> None:
    mine, x, network = _layers(1, 3), torch.randn(4, 3, 16, 16), _network()
    with torch.inference_mode():
        with adapted(network, RowAdapters([None, None, mine, None], apart=True)):
            alone = network(x)[2]
        with adapted(network, RowAdapters([_layers(2, 5), mine, mine, _layers(3, 1)], apart=True)):
            assert torch.equal(network(x)[2], alone)


def test_gathered_products_are_those_of_each_row() -> None:
    x, y = torch.randn(3, 4, 6), torch.randn(3, 4, 5)
    products = [_layers(i, rank, "linear")["linear"] for i, rank in enumerate((2, 5, 2))]
    expected = torch.stack([y[i] + x[i] @ p.down.T @ p.up for i, p in enumerate(products)])
    add_gathered(x, y, products)
    torch.testing.assert_close(y, expected)


def test_layers_are_untouched_after_a_call_and_after_one_that_failed() -> None:
    network, x = _network(), torch.randn(1, 3, 8, 8)
    plain = network(x)
    with adapted(network, RowAdapters([_layers(1, 2)], apart=False)):
        assert not torch.equal(network(x), plain)
    with pytest.raises(RuntimeError), adapted(network, RowAdapters([_layers(1, 2)], apart=False)):
        network(torch.randn(1, 4, 8, 8))
    with pytest.raises(AttributeError), adapted(network, RowAdapters([{"linear": None, "other": None}], apart=False)):  # type: ignore[dict-item]
        pass
    assert torch.equal(network(x), plain)
    assert not any(module._forward_hooks for module in network.modules())
