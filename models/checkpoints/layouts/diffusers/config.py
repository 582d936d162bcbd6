"""config.json files of diffusers and transformers, read into our configs; what we don't compute is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, TypeVar

from core.errors import CheckpointError
from models.networks.autoencoder import AutoencoderConfig
from models.networks.conditioning import TowerConfig
from models.networks.unet import UNetConfig

Json = dict[str, Any]
T = TypeVar("T")

# Options with one value that latent diffusion checkpoints use; absent keys mean that value.
UNET_ONLY: Json = {
    "act_fn": "silu",
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "time_embedding_act_fn": None,
    "timestep_post_act": None,
    "class_embed_type": None,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "dual_cross_attention": False,
    "attention_type": "default",
    "class_embeddings_concat": False,
    "cross_attention_norm": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1.0,
    "reverse_transformer_layers_per_block": None,
}
VAE_ONLY: Json = {
    "act_fn": "silu",
    "norm_type": "group",
    "shift_factor": None,
    "latents_mean": None,
    "lookup_from_codebook": False,
}
DOWN = {"DownBlock2D": False, "ResnetDownsampleBlock2D": False, "CrossAttnDownBlock2D": True, "AttnDownBlock2D": True}
UP = {"UpBlock2D": False, "ResnetUpsampleBlock2D": False, "CrossAttnUpBlock2D": True, "AttnUpBlock2D": True}
MIDDLE = ("UNetMidBlock2D", "UNetMidBlock2DCrossAttn")
ENCODER = {"DownEncoderBlock2D": False, "AttnDownEncoderBlock2D": True}
DECODER = {"UpDecoderBlock2D": False, "AttnUpDecoderBlock2D": True}


def unet_config(config: Json) -> UNetConfig:
    """Read UNet2DConditionModel or UNet2DModel.

    Raises:
        CheckpointError: naming the option that is not supported.
    """
    _require(config, UNET_ONLY, "unet")
    channels = tuple(config["block_out_channels"])
    conditional = config.get("_class_name") == "UNet2DConditionModel"
    attention = _levels(config, DOWN, UP, "unet")
    heads = _heads(config, channels) if conditional else _head_channels(config, channels)
    if config.get("mid_block_type", MIDDLE[0]) not in MIDDLE:
        raise CheckpointError(f"unet: mid_block_type {config['mid_block_type']!r} is not one of {', '.join(MIDDLE)}")
    return UNetConfig(
        in_channels=config["in_channels"],
        out_channels=config["out_channels"],
        channels=channels,
        res_blocks=_one(config.get("layers_per_block", 2), "unet: layers_per_block"),
        attention=attention,
        heads=heads,
        mid_heads=heads[-1],
        mid_attention=bool(config.get("add_attention", True)),
        mid_attention_norm=_mid_attention_norm(config),
        scale_shift_norm=_choice(config, "resnet_time_scale_shift", {"default": False, "scale_shift": True}),
        res_down=_resampled(config, config["down_block_types"], "downsample_type"),
        res_up=tuple(reversed(_resampled(config, config["up_block_types"], "upsample_type"))),
        num_classes=config.get("num_class_embeds"),
        guidance_dim=config.get("time_cond_proj_dim"),
        norm_groups=config.get("norm_num_groups", 32),
        norm_eps=float(config.get("norm_eps", 1e-5)),
        **_added(config),
        **(_cross_attention(config, attention) if conditional else {}),
    )


def _added(config: Json) -> Json:
    """Read the vector of pooled text and numbers that Stable Diffusion XL adds to the time embedding."""
    if config.get("addition_embed_type") is None:
        return {}
    _choice(config, "addition_embed_type", {"text_time": True})
    return {
        "added_dim": config["projection_class_embeddings_input_dim"],
        "added_sinusoids": config["addition_time_embed_dim"],
    }


def _mid_attention_norm(config: Json) -> bool:
    groups, normal = config.get("attn_norm_num_groups"), config.get("norm_num_groups", 32)
    if groups not in (None, normal):
        raise CheckpointError(f"unet: attn_norm_num_groups {groups} differs from norm_num_groups {normal}")
    return groups is not None or config.get("resnet_time_scale_shift", "default") == "default"


def _cross_attention(config: Json, attention: tuple[bool, ...]) -> Json:
    levels = len(attention)
    depth = _per_level(config.get("transformer_layers_per_block", 1), levels)
    only = _per_level(config.get("only_cross_attention", False), levels)
    return {
        "context_dim": _one(config.get("cross_attention_dim", 1280), "unet: cross_attention_dim"),
        "depth": depth,
        "mid_depth": depth[-1],
        "only_cross_attention": tuple(bool(o and a) for o, a in zip(only, attention, strict=True)),
        "linear_projection": bool(config.get("use_linear_projection", False)),
    }


def _heads(config: Json, channels: tuple[int, ...]) -> tuple[int, ...]:
    """Read the number of heads: conditional UNets call it `attention_head_dim`, a mistake that files rely on."""
    return _per_level(config.get("num_attention_heads") or config.get("attention_head_dim", 8), len(channels))


def _head_channels(config: Json, channels: tuple[int, ...]) -> tuple[int, ...]:
    width = config.get("attention_head_dim", 8)
    return tuple(1 if width is None else c // width for c in channels)


def _resampled(config: Json, blocks: list[str], option: str) -> tuple[bool, ...]:
    """Tell which blocks resample by a residual block: plain ones never, whatever the option says, nor the last."""
    res = _choice(config, option, {"conv": False, "resnet": True})
    return (*(name.startswith("Resnet") or (name.startswith("Attn") and res) for name in blocks[:-1]), False)


def autoencoder_config(config: Json) -> AutoencoderConfig:
    """Read AutoencoderKL or VQModel.

    Raises:
        CheckpointError: naming the option that is not supported.
    """
    kinds: dict[str, Literal["kl", "vq"]] = {"AutoencoderKL": "kl", "VQModel": "vq"}
    kind = _choice(config, "_class_name", kinds)
    _require(config, VAE_ONLY, "first stage")
    channels, z = tuple(config["block_out_channels"]), config["latent_channels"]
    return AutoencoderConfig(
        kind=kind,
        channels=channels,
        stem=channels[0],
        z_channels=z,
        embed_dim=config.get("vq_embed_dim") or z,
        res_blocks=config.get("layers_per_block", 1),
        attention=_levels(config, ENCODER, DECODER, "first stage"),
        mid_attention=bool(config.get("mid_block_add_attention", True)),
        norm_groups=config.get("norm_num_groups", 32),
        in_channels=config.get("in_channels", 3),
        out_channels=config.get("out_channels", 3),
        codebook=config.get("num_vq_embeddings", 256) if kind == "vq" else 0,
        quant_conv=bool(config.get("use_quant_conv", True)),
        post_quant_conv=bool(config.get("use_post_quant_conv", True)),
        force_upcast=bool(config.get("force_upcast", True)),
    )


def tower_config(config: Json, *, xl: bool = False) -> TowerConfig:
    """Read BertModel, CLIPTextModel (with or without projection) or LDMBertModel; `xl` reads what SDXL does of it.

    Raises:
        CheckpointError: it is another.
    """
    readers = {"bert": _bert, "clip_text_model": _clip, "clip": _clip, "ldmbert": _ldm_bert}
    kind = config.get("model_type")
    if kind not in readers:
        raise CheckpointError(f"text encoder: model_type {kind!r} is not one of {', '.join(readers)}")
    tower = readers[kind](config)
    if not xl:
        return tower
    projects = "CLIPTextModelWithProjection" in (config.get("architectures") or ())
    return replace(tower, skip=1, final_norm=False, pooled=config["projection_dim"] if projects else None)


def _bert(config: Json) -> TowerConfig:
    return TowerConfig(
        kind="bert",
        vocab_size=config["vocab_size"],
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        head_dim=config["hidden_size"] // config["num_attention_heads"],
        mlp=config["intermediate_size"],
        positions=config["max_position_embeddings"],
        activation=_activation(config.get("hidden_act", "gelu")),
        norm_eps=config.get("layer_norm_eps", 1e-12),
        masked=bool(config.get("use_attention_mask", False)),
    )


def _clip(config: Json) -> TowerConfig:
    return TowerConfig(
        kind="clip",
        vocab_size=config["vocab_size"],
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        head_dim=config["hidden_size"] // config["num_attention_heads"],
        mlp=config["intermediate_size"],
        positions=config.get("max_position_embeddings", 77),
        activation=_activation(config.get("hidden_act", "quick_gelu")),
        norm_eps=config.get("layer_norm_eps", 1e-5),
    )


def _ldm_bert(config: Json) -> TowerConfig:
    return TowerConfig(
        kind="ldm",
        vocab_size=config.get("vocab_size", 30522),
        width=config.get("d_model", 1024),
        layers=config.get("encoder_layers", 32),
        heads=config.get("encoder_attention_heads", 8),
        head_dim=config.get("head_dim", 64),
        mlp=config.get("encoder_ffn_dim", 5120),
        positions=config.get("max_position_embeddings", 77),
        activation=_activation(config.get("activation_function", "gelu")),
    )


def _activation(name: str) -> Any:
    if name not in ("gelu", "quick_gelu"):
        raise CheckpointError(f"text encoder: activation {name!r} is not one of gelu, quick_gelu")
    return name


def _require(config: Json, only: Json, what: str) -> None:
    for key, value in only.items():
        if (got := config.get(key, value)) != value:
            raise CheckpointError(f"{what}: {key} is {got!r}; only {value!r} is supported", field=key, value=got)


def _choice(config: Json, key: str, choices: Mapping[str, T]) -> T:
    value = config.get(key, next(iter(choices)))
    if value not in choices:
        raise CheckpointError(f"{key} is {value!r}, expected one of {', '.join(choices)}", field=key, value=value)
    return choices[value]


def _levels(config: Json, down: dict[str, bool], up: dict[str, bool], what: str) -> tuple[bool, ...]:
    """Tell which levels attend; the way up must mirror the way down."""
    names_down, names_up = config["down_block_types"], config["up_block_types"]
    for name in (*names_down, *names_up):
        if name not in down and name not in up:
            raise CheckpointError(f"{what}: unknown block type {name!r}; known: {', '.join((*down, *up))}")
    attention = tuple(down[name] for name in names_down)
    if attention != tuple(up[name] for name in reversed(names_up)):
        raise CheckpointError(f"{what}: up_block_types {names_up} don't mirror down_block_types {names_down}")
    return attention


def _per_level(value: Any, levels: int) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,) * levels


def _one(value: Any, where: str) -> int:
    """Take one number; a list is accepted where all levels agree."""
    values = set(value) if isinstance(value, list) else {value}
    if len(values) != 1:
        raise CheckpointError(f"{where} is {value!r}; different values a level are not supported")
    return int(values.pop())
