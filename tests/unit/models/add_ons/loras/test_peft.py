"""PEFT's own adapters, two files in a folder: scaled as PEFT scales them, and carded by both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.errors import CheckpointError
from models.add_ons.loras.files import read_lora
from models.add_ons.loras.library import load_lora
from models.add_ons.loras.scan import scan_loras
from models.add_ons.shelf import Found, current_hash
from models.inputs import Inputs
from models.networks.adapters import RowAdapters
from tests.loras import CASE, small_sd

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
LAYERS = ["to_q", "to_v", "to_out.0", "conv1"]


def write_adapter(folder: Path, **options: Any) -> Any:
    """An adapter of the tiny SD 1 as PEFT saves it. Returns diffusers' UNet with it."""
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    unet: Any = UNet2DConditionModel
    theirs = unet.from_pretrained(CASE / "sd1_kohya" / "pipeline" / "unet")
    made: Any = get_peft_model(theirs, LoraConfig(r=4, lora_alpha=10, target_modules=LAYERS, **options))
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    made.save_pretrained(folder)
    return made.eval()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"alpha_pattern": {"attn2.to_q": 2, "to_v": 7.5}, "rank_pattern": {"to_out.0": 2}},
    ],
)
def test_an_adapter_draws_as_in_peft(tmp_path: Path, options: dict[str, Any]) -> None:
    theirs, model = write_adapter(tmp_path, **options), small_sd()
    served = load_lora(tmp_path / WEIGHTS, model)
    z_t, timesteps, context = torch.randn(1, 4, 16, 16), torch.tensor([500]), torch.randn(1, 7, 32)
    with torch.no_grad():
        expected = theirs(z_t, timesteps, context, return_dict=False)[0]
        plain = model.predict(z_t, timesteps, Inputs(context=context))
        ours = model.predict(z_t, timesteps, Inputs(context=context), RowAdapters([served.unet], apart=False))
    assert torch.allclose(ours, expected, atol=1e-4)
    assert not torch.allclose(plain, expected, atol=1e-2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_what_diffusers_saves_of_a_unet_alone_has_its_alpha(tmp_path: Path) -> None:
    """Neither keys nor options begin with the network's name there."""
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig

    unet: Any = UNet2DConditionModel
    theirs = unet.from_pretrained(CASE / "sd1_kohya" / "pipeline" / "unet")
    theirs.add_adapter(LoraConfig(r=4, lora_alpha=32, target_modules=["to_q"]))
    theirs.save_lora_adapter(tmp_path)
    read = read_lora(tmp_path / "pytorch_lora_weights.safetensors")
    assert {layer.scale for layer in read.layers.values()} == {8.0}


def adapter(folder: Path, **said: Any) -> Path:
    """A small one, with what its config says. Returns its weights."""
    layer = "base_model.model.mid_block.attentions.0.proj_in"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {f"{layer}.lora_A.weight": torch.ones(2, 16), f"{layer}.lora_B.weight": torch.ones(16, 2)}, folder / WEIGHTS
    )
    (folder / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 8} | said), "utf-8")
    return folder / WEIGHTS


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"use_dora": True}, "use_dora is not served"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is not served"),
        ({"alpha_pattern": {"(a+)+$": 2}}, r"alpha_pattern \(a\+\)\+\$ is not served"),
        ({"lora_alpha": None}, r"adapter_model\.safetensors: .*NoneType"),
    ],
)
def test_what_scales_or_changes_otherwise_is_named(tmp_path: Path, said: dict[str, Any], named: str) -> None:
    with pytest.raises(CheckpointError, match=named):
        read_lora(adapter(tmp_path, **said))


def test_without_its_config_an_adapter_isnt_served(tmp_path: Path) -> None:
    """Its alpha would be a guess; a file of another name may lie beside any config."""
    weights = adapter(tmp_path / "Lora" / "dogs")
    (tmp_path / "Lora" / "cats.safetensors").write_bytes(weights.read_bytes())
    (weights.with_name(CONFIG)).rename(tmp_path / "Lora" / CONFIG)
    reasons = [item.card.unserved for item in scan_loras(tmp_path) if item.card is not None]
    assert len(reasons) == 2
    assert all("beside its adapter_config.json" in str(reason) for reason in reasons)
    (tmp_path / "Lora" / CONFIG).rename(weights.with_name(CONFIG))
    told = {item.card.id: item.card.unserved is None for item in scan_loras(tmp_path) if item.card is not None}
    assert told == {"cats": False, "dogs": True}
    alphas = {f"{key.rpartition('.lora_A')[0]}.alpha": torch.tensor(1.0) for key in load_file(weights) if "_A" in key}
    save_file(load_file(weights) | alphas, tmp_path / "own.safetensors")
    assert [layer.alpha for layer in read_lora(tmp_path / "own.safetensors").layers.values()] == [1.0]


def test_another_config_makes_another_lora(tmp_path: Path) -> None:
    """As what it draws is another; jobs name LoRAs by their hashes."""
    weights = adapter(tmp_path / "Lora" / "dogs")
    (before,) = scan_loras(tmp_path)
    assert before.card is not None
    assert current_hash(Found(before.card, weights)) == before.card.hash
    adapter(tmp_path / "Lora" / "dogs", lora_alpha=4)
    now = current_hash(Found(before.card, weights))
    (after,) = scan_loras(tmp_path)
    assert after.card is not None
    assert now == after.card.hash != before.card.hash
