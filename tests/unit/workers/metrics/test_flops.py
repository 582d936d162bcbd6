"""FLOPs against torch's own counter, and the cards' peaks."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from models.inputs import Inputs
from models.pipeline.pipeline import LatentDiffusion
from tests.engines import tiny_models
from workers.metrics.flops import peak_flops, row_flops


def counted(model: LatentDiffusion, side: int) -> float:
    config = model.config.unet
    context = None if config.context_dim is None else torch.zeros(1, model.token_window or 1, config.context_dim)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # it doesn't count the fused kernel
        model.predict(torch.zeros(1, config.in_channels, side, side), torch.zeros(1), Inputs(context))
    return float(counter.get_total_flops())


@pytest.mark.parametrize(("name", "side"), [("paint", 8), ("paint", 32), ("up", 16)])
def test_a_row_costs_what_torch_counts(name: str, side: int) -> None:
    model = tiny_models()[name]
    assert row_flops(model)((4, side, side)) == pytest.approx(counted(model, side), rel=1e-9)


def test_counting_leaves_no_hook_behind() -> None:
    model = tiny_models()["paint"]
    row_flops(model)
    assert not any(module._forward_hooks for module in model.unet.modules())


@pytest.mark.parametrize(
    ("card", "dtype", "peak"),
    [
        ("NVIDIA H200", torch.bfloat16, 989.4e12),
        ("NVIDIA H100 PCIe", torch.float16, 756e12),
        ("NVIDIA H100 80GB HBM3", torch.float16, 989.4e12),
        ("NVIDIA A100-SXM4-80GB", torch.float32, 156e12),
        ("NVIDIA L40S", torch.float16, 362e12),
        ("NVIDIA L4", torch.float16, 121e12),
        ("Tesla T4", torch.bfloat16, None),
        ("NVIDIA GeForce RTX 4090", torch.float16, None),
    ],
)
def test_peak_of_a_card(card: str, dtype: torch.dtype, peak: float | None) -> None:
    assert peak_flops(card, dtype) == peak
