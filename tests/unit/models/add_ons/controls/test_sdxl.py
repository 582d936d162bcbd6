"""ControlNets of SDXL against diffusers' own: whole ones and small ones without attention, several, and rows apart."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor

from core.errors import CheckpointError
from models.add_ons.controls.files import load_control, read_control
from models.add_ons.controls.scan import scan_controls
from models.checkpoints.load import load
from models.inputs import Inputs
from models.networks.controlnet import Control, ControlNet, RowControls
from models.pipeline.pipeline import LatentDiffusion
from tests.controls import controlled_sd
from tests.parity.run import CASES

PIPELINE = CASES / "sdxl" / "sdxl_base" / "pipeline"
WEIGHTS = "diffusion_pytorch_model.safetensors"
SMALL = {"down_block_types": ("DownBlock2D",) * 2, "transformer_layers_per_block": (0, 0)}
MIDDLING = {"transformer_layers_per_block": (0, 1)}
BARE = {"down_block_types": ("DownBlock2D",) * 2, "mid_block_type": "UNetMidBlock2D"}


@cache
def xl() -> LatentDiffusion:
    return load(PIPELINE)


def their_unet() -> Any:
    made: Any = UNet2DConditionModel
    return made.from_pretrained(PIPELINE / "unet").eval()


def their_control(seed: int, **changes: Any) -> Any:
    """A ControlNet of this UNet with weights everywhere: those published begin as zeros."""
    made: Any = ControlNetModel
    widths = (4,) * xl().latent_factor.bit_length()
    like = made.from_unet(their_unet(), conditioning_embedding_out_channels=widths).config
    network = made.from_config({**like, **changes}).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return network


def ours(theirs: Any, folder: Path) -> ControlNet:
    theirs.save_pretrained(folder)
    return load_control(read_control(folder / WEIGHTS), xl())


@cache
def inputs() -> dict[str, Tensor]:
    generator, unet, size = torch.Generator().manual_seed(3), xl().config.unet, 8
    pixels = size * xl().latent_factor
    shapes = {
        "z_t": (3, 4, size, size),
        "context": (3, 7, unet.context_dim or 0),
        "pooled": (3, (unet.added_dim or 0) - 6 * unet.added_sinusoids),
        "picture": (3, 3, pixels, pixels),
    }
    drawn = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    numbers = torch.tensor([[64, 64, 0, 0, 64, 64], [32, 48, 8, 0, 64, 64], [64, 64, 0, 4, 32, 32]])
    return drawn | {"numbers": numbers, "t": torch.tensor([801.0, 401.0, 21.0])}


def told() -> dict[str, Tensor]:
    return {"text_embeds": inputs()["pooled"], "time_ids": inputs()["numbers"]}


def theirs_adds(network: Any, scale: float, rows: slice) -> tuple[list[Tensor], Tensor]:
    own = {name: value[rows] for name, value in inputs().items()}
    added = {name: value[rows] for name, value in told().items()}
    with torch.no_grad():
        down, mid = network(
            own["z_t"],
            own["t"],
            own["context"],
            controlnet_cond=own["picture"],
            conditioning_scale=scale,
            added_cond_kwargs=added,
            return_dict=False,
        )
    return list(down), mid


def our_inputs() -> Inputs:
    return Inputs(inputs()["context"], added=xl().added(inputs()["pooled"], inputs()["numbers"]))


@pytest.mark.parametrize("changes", [{}, SMALL, MIDDLING, BARE], ids=["whole", "small", "mid", "bare"])
def test_residuals_are_diffusers(tmp_path: Path, changes: dict[str, Any]) -> None:
    theirs = their_control(1, **changes)
    network = ours(theirs, tmp_path)
    down, mid = theirs_adds(theirs, 1.0, slice(None))
    with torch.no_grad():
        found = network(inputs()["z_t"], inputs()["t"], inputs()["context"], our_inputs().added, _hints(network))
    assert len(found) == len(down) + 1
    for ours_, wanted in zip(found, [*down, mid], strict=True):
        torch.testing.assert_close(ours_, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def _hints(network: ControlNet) -> Tensor:
    with torch.no_grad():
        return network.embed(inputs()["picture"])


def test_two_lead_one_row_one_another_and_a_row_without_keeps_its_bits(tmp_path: Path) -> None:
    whole, small = their_control(1), their_control(2, **SMALL)
    networks = [ours(whole, tmp_path / "whole"), ours(small, tmp_path / "small")]
    hints = [_hints(network) for network in networks]
    both = [Control(n, h[0], s) for n, h, s in zip(networks, hints, (0.7, 0.4), strict=True)]
    rows = RowControls([both, [], [Control(networks[1], hints[1][2], 1.0)]], apart=True)
    z_t, t = inputs()["z_t"], inputs()["t"]
    with torch.no_grad():
        out = xl().predict(z_t, t, our_inputs(), controls=rows)
        plain = xl().predict(z_t, t, our_inputs())
    assert torch.equal(out[1], plain[1])
    for row, scales in ((0, (0.7, 0.4)), (2, (0.0, 1.0))):
        wanted = _led((whole, small), scales, slice(row, row + 1))
        torch.testing.assert_close(out[row : row + 1], wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
        assert not torch.equal(out[row], plain[row])


def _led(networks: tuple[Any, Any], scales: tuple[float, float], rows: slice) -> Tensor:
    """Add up the residuals of those that act, as diffusers' MultiControlNetModel does."""
    parts = [theirs_adds(network, scale, rows) for network, scale in zip(networks, scales, strict=True) if scale]
    down = [sum(each[1:], each[0]) for each in zip(*(part[0] for part in parts), strict=True)]
    own = {name: value[rows] for name, value in inputs().items()}
    added = {name: value[rows] for name, value in told().items()}
    with torch.no_grad():
        led: Tensor = their_unet()(
            own["z_t"],
            own["t"],
            own["context"],
            added_cond_kwargs=added,
            down_block_additional_residuals=down,
            mid_block_additional_residual=sum((part[1] for part in parts[1:]), parts[0][1]),
            return_dict=False,
        )[0]
    return led


def test_its_card_says_its_family_and_another_familys_model_refuses_it(tmp_path: Path) -> None:
    folder = tmp_path / "ControlNet" / "canny"
    their_control(1).save_pretrained(folder)
    [item] = scan_controls(tmp_path)
    assert item.card is not None
    assert (item.card.id, item.card.context_width) == ("canny", xl().config.unet.context_dim)
    assert item.card.unserved is None
    with pytest.raises(CheckpointError, match="ControlNet: "):
        load_control(read_control(folder / WEIGHTS), controlled_sd())


@pytest.mark.parametrize("channels", [1, 4])
def test_pictures_of_other_channels_are_refused_by_name(tmp_path: Path, channels: int) -> None:
    their_control(1, conditioning_channels=channels).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=f"conditioning_channels is {channels}"):
        read_control(tmp_path / WEIGHTS)


def test_control_lllite_is_named(tmp_path: Path) -> None:
    key = "lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.conditioning1.0.weight"
    save_file({key: torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="ControlNet-LLLite is not served"):
        read_control(tmp_path / "x.safetensors")
