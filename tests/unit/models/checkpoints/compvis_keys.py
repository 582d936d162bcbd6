"""The original code's state dicts, key by key with shapes, written out from its configs without our readers.

Sizes of published models: the configs of the CompVis and Stability repositories.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]
Params = Mapping[str, Any]
CLIP_VOCAB, CLIP_POSITIONS = 49_408, 77

SD1_UNET: Params = {
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "attention_resolutions": [4, 2, 1],
    "num_res_blocks": 2,
    "channel_mult": [1, 2, 4, 4],
    "num_heads": 8,
    "use_spatial_transformer": True,
    "transformer_depth": 1,
    "context_dim": 768,
}
SD2_UNET: Params = {
    **{key: value for key, value in SD1_UNET.items() if key != "num_heads"},
    "num_head_channels": 64,
    "context_dim": 1024,
    "use_linear_in_transformer": True,
}
TEXT_LARGE_UNET: Params = {**SD1_UNET, "context_dim": 1280}
X4_UNET: Params = {
    **SD1_UNET,
    "in_channels": 7,
    "model_channels": 256,
    "attention_resolutions": [2, 4, 8],
    "channel_mult": [1, 2, 2, 4],
    "context_dim": 1024,
    "num_classes": 1000,
    "use_linear_in_transformer": True,
    "disable_self_attentions": [True, True, True, False],
}
SDXL_UNET: Params = {
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "attention_resolutions": [4, 2],
    "num_res_blocks": 2,
    "channel_mult": [1, 2, 4],
    "num_head_channels": 64,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "transformer_depth": [1, 2, 10],
    "context_dim": 2048,
    "adm_in_channels": 2816,
}
SDXL_REFINER_UNET: Params = {
    **SDXL_UNET,
    "model_channels": 384,
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": 4,
    "context_dim": 1280,
    "adm_in_channels": 2560,
}
SR_UNET: Params = {
    "in_channels": 6,
    "out_channels": 3,
    "model_channels": 160,
    "attention_resolutions": [16, 8],
    "num_res_blocks": 2,
    "channel_mult": [1, 2, 2, 4],
    "num_head_channels": 32,
}
INPAINT_UNET: Params = {
    "in_channels": 7,
    "out_channels": 3,
    "model_channels": 256,
    "attention_resolutions": [8, 4, 2],
    "num_res_blocks": 2,
    "channel_mult": [1, 2, 3, 4],
    "num_heads": 8,
    "resblock_updown": True,
}
CLASS_UNET: Params = {
    "in_channels": 3,
    "out_channels": 3,
    "model_channels": 192,
    "attention_resolutions": [8, 4, 2],
    "num_res_blocks": 2,
    "channel_mult": [1, 2, 3, 5],
    "num_heads": 1,
    "use_spatial_transformer": True,
    "transformer_depth": 1,
    "context_dim": 512,
}
LAYOUT_UNET: Params = {
    "in_channels": 3,
    "out_channels": 3,
    "model_channels": 128,
    "attention_resolutions": [8, 4, 2],
    "num_res_blocks": 2,
    "channel_mult": [1, 2, 3, 4],
    "num_head_channels": 32,
    "use_spatial_transformer": True,
    "transformer_depth": 3,
    "context_dim": 512,
}
CHURCHES_UNET: Params = {
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 192,
    "attention_resolutions": [1, 2, 4, 8],
    "num_res_blocks": 2,
    "channel_mult": [1, 2, 2, 4, 4],
    "num_heads": 8,
    "use_scale_shift_norm": True,
    "resblock_updown": True,
}
CELEBA_UNET: Params = {
    "in_channels": 3,
    "out_channels": 3,
    "model_channels": 224,
    "attention_resolutions": [8, 4, 2],
    "num_res_blocks": 2,
    "channel_mult": [1, 2, 3, 4],
    "num_head_channels": 32,
}


def _conv(name: str, out: int, into: int, size: int = 3) -> Shapes:
    return {f"{name}.weight": (out, into, size, size), f"{name}.bias": (out,)}


def _linear(name: str, out: int, into: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (out, into)} | ({f"{name}.bias": (out,)} if bias else {})


def _norm(name: str, channels: int) -> Shapes:
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def _res_block(name: str, into: int, out: int, emb: int, scale_shift: bool) -> Shapes:
    shapes = _norm(f"{name}.in_layers.0", into) | _conv(f"{name}.in_layers.2", out, into)
    shapes |= _linear(f"{name}.emb_layers.1", 2 * out if scale_shift else out, emb)
    shapes |= _norm(f"{name}.out_layers.0", out) | _conv(f"{name}.out_layers.3", out, out)
    return shapes | (_conv(f"{name}.skip_connection", out, into, 1) if into != out else {})


def _transformer(name: str, channels: int, p: Params, only_cross: bool) -> Shapes:
    context = p["context_dim"]
    linear = p.get("use_linear_in_transformer", False)
    shapes = _norm(f"{name}.norm", channels)
    for proj in ("proj_in", "proj_out"):
        full = f"{name}.{proj}"
        shapes |= _linear(full, channels, channels) if linear else _conv(full, channels, channels, 1)
    depth = p["transformer_depth"]
    if isinstance(depth, list):  # by level
        depth = depth[p["channel_mult"].index(channels // p["model_channels"])]
    for i in range(depth):
        block = f"{name}.transformer_blocks.{i}"
        for attn, width in (("attn1", context if only_cross else channels), ("attn2", context)):
            shapes |= _linear(f"{block}.{attn}.to_q", channels, channels, bias=False)
            shapes |= _linear(f"{block}.{attn}.to_k", channels, width, bias=False)
            shapes |= _linear(f"{block}.{attn}.to_v", channels, width, bias=False)
            shapes |= _linear(f"{block}.{attn}.to_out.0", channels, channels)
        shapes |= _linear(f"{block}.ff.net.0.proj", 8 * channels, channels)
        shapes |= _linear(f"{block}.ff.net.2", channels, 4 * channels)
        for norm in ("norm1", "norm2", "norm3"):
            shapes |= _norm(f"{block}.{norm}", channels)
    return shapes


def _attention(name: str, channels: int, p: Params, only_cross: bool = False) -> Shapes:
    if p.get("use_spatial_transformer"):
        return _transformer(name, channels, p, only_cross)
    qkv = {f"{name}.qkv.weight": (3 * channels, channels, 1), f"{name}.qkv.bias": (3 * channels,)}
    out = {f"{name}.proj_out.weight": (channels, channels, 1), f"{name}.proj_out.bias": (channels,)}
    return _norm(f"{name}.norm", channels) | qkv | out


def unet_shapes(p: Params) -> Shapes:
    """openaimodel.UNetModel, keys without prefix."""
    base, mult = p["model_channels"], p["channel_mult"]
    emb, scale_shift = 4 * base, bool(p.get("use_scale_shift_norm"))
    only = p.get("disable_self_attentions", [False] * len(mult))
    shapes = _linear("time_embed.0", emb, base) | _linear("time_embed.2", emb, emb)
    if "num_classes" in p:
        shapes |= {"label_emb.weight": (p["num_classes"], emb)}
    if "adm_in_channels" in p:
        shapes |= _linear("label_emb.0.0", emb, p["adm_in_channels"]) | _linear("label_emb.0.2", emb, emb)
    shapes |= _conv("input_blocks.0.0", base, p["in_channels"])
    skips, width, index, factor = [base], base, 1, 1
    for level, m in enumerate(mult):
        for _ in range(p["num_res_blocks"]):
            shapes |= _res_block(f"input_blocks.{index}.0", width, m * base, emb, scale_shift)
            width = m * base
            if factor in p["attention_resolutions"]:
                shapes |= _attention(f"input_blocks.{index}.1", width, p, only[level])
            skips.append(width)
            index += 1
        if level < len(mult) - 1:
            if p.get("resblock_updown"):
                shapes |= _res_block(f"input_blocks.{index}.0", width, width, emb, scale_shift)
            else:
                shapes |= _conv(f"input_blocks.{index}.0.op", width, width)
            skips.append(width)
            index, factor = index + 1, 2 * factor
    for i in (0, 2):
        shapes |= _res_block(f"middle_block.{i}", width, width, emb, scale_shift)
    shapes |= _attention("middle_block.1", width, p)
    shapes |= _up_shapes(p, skips, width, factor)
    return shapes | _norm("out.0", base) | _conv("out.2", p["out_channels"], base)


def _up_shapes(p: Params, skips: list[int], width: int, factor: int) -> Shapes:
    base, emb, scale_shift = p["model_channels"], 4 * p["model_channels"], bool(p.get("use_scale_shift_norm"))
    only = p.get("disable_self_attentions", [False] * len(p["channel_mult"]))
    shapes: Shapes = {}
    index = 0
    for level, m in reversed(list(enumerate(p["channel_mult"]))):
        for block in range(p["num_res_blocks"] + 1):
            name, inner = f"output_blocks.{index}", 1
            shapes |= _res_block(f"{name}.0", width + skips.pop(), m * base, emb, scale_shift)
            width = m * base
            if factor in p["attention_resolutions"]:
                shapes |= _attention(f"{name}.1", width, p, only[level])
                inner = 2
            if level > 0 and block == p["num_res_blocks"]:
                if p.get("resblock_updown"):
                    shapes |= _res_block(f"{name}.{inner}", width, width, emb, scale_shift)
                else:
                    shapes |= _conv(f"{name}.{inner}.conv", width, width)
                factor //= 2
            index += 1
    return shapes


def _ae_res(name: str, into: int, out: int) -> Shapes:
    shapes = _norm(f"{name}.norm1", into) | _conv(f"{name}.conv1", out, into)
    shapes |= _norm(f"{name}.norm2", out) | _conv(f"{name}.conv2", out, out)
    return shapes | (_conv(f"{name}.nin_shortcut", out, into, 1) if into != out else {})


def _ae_attention(name: str, channels: int) -> Shapes:
    shapes = _norm(f"{name}.norm", channels)
    for layer in ("q", "k", "v", "proj_out"):
        shapes |= _conv(f"{name}.{layer}", channels, channels, 1)
    return shapes


def _ae_mid(name: str, channels: int, attends: bool) -> Shapes:
    shapes = _ae_res(f"{name}.block_1", channels, channels) | _ae_res(f"{name}.block_2", channels, channels)
    return shapes | (_ae_attention(f"{name}.attn_1", channels) if attends else {})


def first_stage_shapes(
    mult: list[int], z: int, *, ch: int = 128, blocks: int = 2, codes: int = 0, attention: tuple[int, ...] = (),
    mid: bool = True,
) -> Shapes:  # fmt: skip
    """AutoencoderKL, or VQModel where there are codes; `attention` are levels, counted from full resolution."""
    moments = 1 if codes else 2
    shapes = _conv("encoder.conv_in", ch, 3)
    width = ch
    for i, m in enumerate(mult):
        for j in range(blocks):
            shapes |= _ae_res(f"encoder.down.{i}.block.{j}", width, m * ch)
            width = m * ch
            shapes |= _ae_attention(f"encoder.down.{i}.attn.{j}", width) if i in attention else {}
        shapes |= _conv(f"encoder.down.{i}.downsample.conv", width, width) if i < len(mult) - 1 else {}
    shapes |= _ae_mid("encoder.mid", width, mid) | _norm("encoder.norm_out", width)
    shapes |= _conv("encoder.conv_out", moments * z, width)
    shapes |= _conv("decoder.conv_in", width, z) | _ae_mid("decoder.mid", width, mid)
    for i, m in reversed(list(enumerate(mult))):
        for j in range(blocks + 1):
            shapes |= _ae_res(f"decoder.up.{i}.block.{j}", width, m * ch)
            width = m * ch
            shapes |= _ae_attention(f"decoder.up.{i}.attn.{j}", width) if i in attention else {}
        shapes |= _conv(f"decoder.up.{i}.upsample.conv", width, width) if i > 0 else {}
    shapes |= _norm("decoder.norm_out", width) | _conv("decoder.conv_out", 3, width)
    shapes |= {"quantize.embedding.weight": (codes, z)} if codes else {}
    return shapes | _conv("quant_conv", moments * z, moments * z, 1) | _conv("post_quant_conv", z, z, 1)


def bert_shapes(width: int, layers: int, vocab: int = 30_522, positions: int = 77) -> Shapes:
    """BERTEmbedder: x-transformers with 8 heads of 64."""
    shapes: Shapes = {
        "transformer.token_emb.weight": (vocab, width),
        "transformer.pos_emb.emb.weight": (positions, width),
    }
    for i in range(layers):
        attn, ff = (f"transformer.attn_layers.layers.{2 * i + k}" for k in (0, 1))
        shapes |= _norm(f"{attn}.0", width) | _linear(f"{attn}.1.to_out", width, 512)
        for name in ("to_q", "to_k", "to_v"):
            shapes |= _linear(f"{attn}.1.{name}", 512, width, bias=False)
        shapes |= _norm(f"{ff}.0", width) | _linear(f"{ff}.1.net.0.0", 4 * width, width)
        shapes |= _linear(f"{ff}.1.net.2", width, 4 * width)
    return shapes | _norm("transformer.norm", width) | _linear("transformer.to_logits", vocab, width)


def clip_shapes(width: int, layers: int) -> Shapes:
    """FrozenCLIPEmbedder: transformers' CLIPTextModel."""
    root = "transformer.text_model"
    shapes: Shapes = {
        f"{root}.embeddings.token_embedding.weight": (CLIP_VOCAB, width),
        f"{root}.embeddings.position_embedding.weight": (CLIP_POSITIONS, width),
        f"{root}.embeddings.position_ids": (1, CLIP_POSITIONS),
    }
    for i in range(layers):
        layer = f"{root}.encoder.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _linear(f"{layer}.self_attn.{name}", width, width)
        shapes |= _norm(f"{layer}.layer_norm1", width) | _norm(f"{layer}.layer_norm2", width)
        shapes |= _linear(f"{layer}.mlp.fc1", 4 * width, width) | _linear(f"{layer}.mlp.fc2", width, 4 * width)
    return shapes | _norm(f"{root}.final_layer_norm", width)


def open_clip_shapes(width: int, layers: int) -> Shapes:
    """FrozenOpenCLIPEmbedder: the text tower with its last block."""
    shapes: Shapes = {
        "model.token_embedding.weight": (CLIP_VOCAB, width),
        "model.positional_embedding": (CLIP_POSITIONS, width),
        "model.text_projection": (width, width),
        "model.logit_scale": (),
    }
    for i in range(layers):
        block = f"model.transformer.resblocks.{i}"
        shapes |= {f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,)}
        shapes |= _linear(f"{block}.attn.out_proj", width, width)
        shapes |= _norm(f"{block}.ln_1", width) | _norm(f"{block}.ln_2", width)
        shapes |= _linear(f"{block}.mlp.c_fc", 4 * width, width) | _linear(f"{block}.mlp.c_proj", width, 4 * width)
    return shapes | _norm("model.ln_final", width)


def whole(unet: Shapes, first_stage: Shapes, conditioner: Shapes | None = None) -> Shapes:
    """A model's state dict with the original's prefixes."""
    parts = (("model.diffusion_model.", unet), ("first_stage_model.", first_stage), ("cond_stage_model.", conditioner))
    return {prefix + key: shape for prefix, shapes in parts if shapes for key, shape in shapes.items()}


def whole_xl(unet: Shapes, first_stage: Shapes, *towers: Shapes) -> Shapes:
    """An SDXL's state dict: its towers are embedders by number, and some files hold the sampler's table of noise."""
    embedders = {f"conditioner.embedders.{i}.{key}": shape for i, t in enumerate(towers) for key, shape in t.items()}
    return whole(unet, first_stage) | embedders | {"denoiser.sigmas": (1000,)}


def sd_shapes(width: int, context: int, heads: int, open_clip: bool) -> Shapes:
    """A Stable Diffusion of two levels with the full vocabulary."""
    p = {**SD1_UNET, "model_channels": width, "context_dim": context, "num_heads": heads, "num_res_blocks": 1}
    p |= {"channel_mult": [1, 1], "attention_resolutions": [2, 1], "use_linear_in_transformer": open_clip}
    text = open_clip_shapes(context, 3) if open_clip else clip_shapes(context, 2)
    return whole(unet_shapes(p), first_stage_shapes([1, 1, 1, 1], 4, ch=32, blocks=1), text)


def random_state(shapes: Shapes) -> dict[str, Tensor]:
    """Small random float16 weights; norms near one."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, shape in shapes.items():
        value = 0.05 * torch.randn(shape, generator=generator)
        state[key] = (value + (1.0 if "norm" in key and key.endswith("weight") else 0.0)).half()
    return state


def meta_state(shapes: Shapes) -> dict[str, Tensor]:
    """Tensors without memory."""
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
