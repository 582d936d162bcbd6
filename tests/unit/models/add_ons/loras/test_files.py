"""LoRA files: every layout's names, what doesn't fit, and what is of another kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from core.errors import CheckpointError
from latentd.bench.shapes import XL_UNET
from models.add_ons.loras.files import Matrices, low_rank, read_lora
from models.add_ons.loras.inspect import inspect_lora
from models.add_ons.loras.library import load_lora
from models.add_ons.loras.names import places
from models.checkpoints.inspect import inspect
from models.networks.unet import UNet
from tests.loras import small_sd

Q = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"  # 16 channels


def _pair(layer: str = Q, rank: int = 2, width: int = 16, **more: Tensor) -> dict[str, Tensor]:
    return {
        f"{layer}.lora_down.weight": torch.randn(rank, width),
        f"{layer}.lora_up.weight": torch.randn(width, rank),
        **{f"{layer}.{name}": value for name, value in more.items()},
    }


def _file(folder: Path, state: dict[str, Tensor]) -> Path:
    path = folder / "x.safetensors"
    save_file(state, path)
    return path


def test_every_layer_of_sdxl_is_found_by_all_its_names() -> None:
    with torch.device("meta"):
        found = places(UNet(XL_UNET), None)
    for names in (
        ("input_blocks_4_1_{}_0_attn1_to_q", "down_blocks_1_attentions_0_{}_0_attn1_to_q"),
        ("input_blocks_8_1_proj_in", "down_blocks_2_attentions_1_proj_in"),
        ("middle_block_1_{}_9_ff_net_0_proj", "mid_block_attentions_0_{}_9_ff_net_0_proj"),
        ("output_blocks_5_1_{}_1_attn2_to_out_0", "up_blocks_1_attentions_2_{}_1_attn2_to_out"),
        ("output_blocks_2_2_conv", "up_blocks_0_upsamplers_0_conv"),
        ("input_blocks_3_0_op", "down_blocks_0_downsamplers_0_conv"),
        ("input_blocks_4_0_skip_connection", "down_blocks_1_resnets_0_conv_shortcut"),
        ("output_blocks_8_0_emb_layers_1", "up_blocks_2_resnets_2_time_emb_proj"),
        ("time_embed_2", "time_embedding_linear_2"),
        ("label_emb_0_0", "add_embedding_linear_1"),
        ("middle_block_2_in_layers_2", "mid_block_resnets_1_conv1"),
    ):  # fmt: skip
        original, diffusers = (found[f"unet:{name.format('transformer_blocks')}"] for name in names)
        assert original == diffusers
    assert len({(place.layer, place.index) for place in found.values()}) == 794


def test_a_fused_layers_matrices_are_side_by_side_at_their_own_scales(tmp_path: Path) -> None:
    value = Q.replace("to_q", "to_v")
    state = _pair(rank=2, alpha=torch.tensor(1.0)) | _pair(value, rank=3)
    layers = load_lora(_file(tmp_path, state), small_sd()).unet
    [(name, product)] = layers.items()
    assert name == "mid_block.attentions.0.transformer_blocks.0.attn1.to_qkv"
    delta = product.up.T @ product.down
    q = 0.5 * state[f"{Q}.lora_up.weight"] @ state[f"{Q}.lora_down.weight"]
    v = state[f"{value}.lora_up.weight"] @ state[f"{value}.lora_down.weight"]
    torch.testing.assert_close(delta, torch.cat([q, torch.zeros(16, 16), v]))


def test_torch_files_are_read_by_the_restricted_reader(tmp_path: Path) -> None:
    state = _pair(alpha=torch.tensor(2.0))
    torch.save(state, tmp_path / "x.pt")
    [matrices] = read_lora(tmp_path / "x.pt").layers.values()
    assert torch.equal(matrices.tensors["down"], state[f"{Q}.lora_down.weight"])
    torch.save({"state": print}, tmp_path / "evil.bin")
    with pytest.raises(CheckpointError, match="no matrix of a LoRA"):
        read_lora(tmp_path / "evil.bin")


@pytest.mark.parametrize(
    ("state", "named"),
    [
        (_pair(width=8), f"{Q}.* is for a layer of 8 to 8 channels; the model's has 16 to 16"),
        (_pair("lora_unet_mid_block_attentions_0_attn7_to_q"), "no place for lora_unet_mid_block_attentions_0_attn7"),
        (_pair("lora_te2_text_model_encoder_layers_0_mlp_fc1"), "no place for lora_te2_"),
        ({f"{Q}.lora_down.weight": torch.randn(2, 16)}, "lacks its up matrix"),
        ({f"{Q}.lora_down.weight": torch.randn(2, 16), f"{Q}.lora_up.weight": torch.randn(16, 3)}, "make no product"),
        ({"double_blocks.0.img_attn.qkv.lora_A.weight": torch.randn(2, 8)}, "lacks its up"),
        (_pair() | {"word": torch.zeros(1)}, "word is no matrix of a LoRA"),
    ],
    ids=["width", "layer", "tower", "half", "ranks", "flux", "foreign"],
)  # fmt: skip
def test_what_does_not_fit_is_named(tmp_path: Path, state: dict[str, Tensor], named: str) -> None:
    with pytest.raises(CheckpointError, match=named):
        load_lora(_file(tmp_path, state), small_sd())


def test_names_that_begin_as_comfyui_writes_them(tmp_path: Path) -> None:
    named = Q.removeprefix("lora_unet_").replace("mid_block_attentions_0", "middle_block.1")
    named = named.replace("_transformer_blocks_0_attn1_to_q", ".transformer_blocks.0.attn1.to_q")
    state = _pair()
    known, found = load_lora(_file(tmp_path, state), small_sd()), {}
    for key, value in state.items():
        found[key.replace(Q, f"diffusion_model.{named}")] = value
    again = load_lora(_file(tmp_path, found), small_sd())
    assert again.unet.keys() == known.unet.keys()


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("LoHa", f"{Q}.hada_w1_a"),
        ("LoKr", f"{Q}.lokr_w1"),
        ("DoRA", f"{Q}.dora_scale"),
        ("DoRA", "unet.mid_block.attentions.0.proj_in.lora_magnitude_vector"),
        ("OFT", f"{Q}.oft_blocks"),
        (r"trained norms \(w_norm\)", f"{Q}.w_norm"),
        (r"an embedding inside a LoRA \(bundle_emb\)", "bundle_emb.style.string_to_param.*"),
    ],
)
def test_other_kinds_are_named(tmp_path: Path, kind: str, key: str) -> None:
    path = _file(tmp_path, _pair() | {key: torch.zeros(16, 16)})
    for read in (read_lora, inspect_lora):
        with pytest.raises(CheckpointError, match=f"{kind} is not served"):
            read(path)


@pytest.mark.parametrize(("said", "scale"), [({}, 1.0), ({"unet.lora_alpha": 3, "unet.alpha_pattern": {}}, 1.5)])
def test_alpha_of_a_header(tmp_path: Path, said: dict[str, object], scale: float) -> None:
    layer = "unet.mid_block.attentions.0.proj_in"
    state = {f"{layer}.lora_A.weight": torch.randn(2, 16), f"{layer}.lora_B.weight": torch.randn(16, 2)}
    save_file(state, tmp_path / "x.safetensors", {"lora_adapter_metadata": json.dumps(said)})
    [product] = load_lora(tmp_path / "x.safetensors", small_sd()).unet.values()
    torch.testing.assert_close(product.up, scale * state[f"{layer}.lora_B.weight"].T)
    for option, named in (("use_dora", r"unet\.use_dora is not served"), ("use_rslora", r"lacks unet\.lora_alpha")):
        save_file(state, tmp_path / "x.safetensors", {"lora_adapter_metadata": json.dumps({f"unet.{option}": True})})
        with pytest.raises(CheckpointError, match=named):
            read_lora(tmp_path / "x.safetensors")


def test_lycoris_own_names_are_those_of_diffusers(tmp_path: Path) -> None:
    products = []
    for layer in (Q, Q.replace("lora_unet_", "lycoris_")):
        torch.manual_seed(0)
        products.append(load_lora(_file(tmp_path, _pair(layer)), small_sd()).unet)
    assert products[0].keys() == products[1].keys()


def test_text_layers_that_a_model_does_not_compute_are_passed_over(tmp_path: Path) -> None:
    state = _pair() | _pair("lora_te_text_model_encoder_layers_31_mlp_fc1", width=32)
    adapters = load_lora(_file(tmp_path, state), small_sd())
    assert (len(adapters.unet), len(adapters.text)) == (1, 0)


def test_inspect_says_what_it_is(tmp_path: Path) -> None:
    path = _file(tmp_path, _pair() | _pair("lora_te_text_model_encoder_layers_0_mlp_fc1", width=32))
    report = inspect_lora(path)
    assert report is not None
    assert [part.name for part in report.parts] == ["te1", "unet"]
    assert report.facts["layers"] == "2, rank 2 at most"
    with pytest.raises(CheckpointError, match="a LoRA; its place is the folder Lora"):
        inspect(path)


def test_a_convolutions_product_has_its_kernel() -> None:
    layer = "lora_unet_conv_in"
    state = {f"{layer}.lora_down.weight": torch.randn(2, 4, 3, 3), f"{layer}.lora_up.weight": torch.randn(8, 2, 1, 1)}
    matrices = Matrices(
        layer, {"down": state[f"{layer}.lora_down.weight"], "up": state[f"{layer}.lora_up.weight"]}, 4.0
    )
    product = low_rank({0: matrices}, 1, torch.Size([8, 4, 3, 3]))
    assert product.down.shape == (2, 4, 3, 3)
    torch.testing.assert_close(product.up, 2 * state[f"{layer}.lora_up.weight"].flatten(1).T)
