"""FLOPs against torch's own counter, and the cards' peaks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from contract.add_ons import CONTROL_ROW
from models.checkpoints.layouts.compvis.unet import read_unet
from models.inputs import Inputs
from models.networks.unet import UNet
from models.pipeline.pipeline import LatentDiffusion
from tests.controls import applied, controlled_sd, library_of, write_controls
from tests.engines import tiny_models
from tests.unit.models.checkpoints.compvis_keys import SD1_UNET, SD2_UNET, SDXL_UNET, Params, meta_state, unet_shapes
from workers.metrics.flops import control_flops, count_flops, peak_flops, row_flops


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


@pytest.mark.parametrize("side", [8, 32])
def test_a_row_of_a_controlnet_costs_what_torch_counts(side: int, tmp_path: Path) -> None:
    model = controlled_sd()
    network = library_of(write_controls(tmp_path).parent).network(model, applied(tmp_path, "lines"))
    config, tokens = model.config.unet, model.token_window or 1
    assert config.context_dim is not None
    z, context = torch.zeros(1, 4, side, side), torch.zeros(1, tokens, config.context_dim)
    hint = torch.zeros(1, config.channels[0], side, side)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(z, torch.zeros(1), context, None, hint)
    assert control_flops(config, tokens)((4, side, side)) == pytest.approx(counter.get_total_flops(), rel=1e-9)


@pytest.mark.parametrize(("unet", "side"), [(SD1_UNET, 64), (SD2_UNET, 96), (SDXL_UNET, 128)])
def test_a_row_of_a_published_controlnet_is_about_what_estimates_take_it_for(unet: Params, side: int) -> None:
    config, _ = read_unet(meta_state(unet_shapes(unet)), unet)
    with torch.device("meta"), torch.inference_mode():
        row = count_flops(UNet(config), 77, side)
    share = control_flops(config, 77)((4, side, side)) / row
    assert share == pytest.approx(CONTROL_ROW, abs=0.07)


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
