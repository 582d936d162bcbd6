"""Our configs as the config.json files of diffusers and transformers; `diffusers_config` reads them back."""

from __future__ import annotations

from typing import Any

from core.errors import CheckpointError
from models.networks.autoencoder import AutoencoderConfig
from models.networks.conditioning import TowerConfig
from models.networks.unet import UNetConfig
from models.schedule import ScheduleConfig

Json = dict[str, Any]
PREDICTIONS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
BETAS = {"scaled_linear": "scaled_linear", "linear": "linear", "cosine": "squaredcos_cap_v2"}


def unet_json(config: UNetConfig, latent_size: int | None) -> Json:
    """Write UNet2DConditionModel where there is a context, UNet2DModel otherwise.

    Raises:
        CheckpointError: it has no name for how the UNet changes its resolution.
    """
    if not config.conv_resample:
        raise CheckpointError("unet: diffusers' UNets have no conv_resample: false", field="conv_resample")
    cross = config.context_dim is not None
    levels = range(len(config.channels))
    down = [_block("Down", cross, config.attention[i], bool(config.res_down and config.res_down[i])) for i in levels]
    up = [_block("Up", cross, config.attention[i], bool(config.res_up and config.res_up[i])) for i in reversed(levels)]
    scale_shift = config.scale_shift_norm
    return {
        "_class_name": "UNet2DConditionModel" if cross else "UNet2DModel",
        "sample_size": latent_size,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "block_out_channels": list(config.channels),
        "layers_per_block": config.res_blocks,
        "down_block_types": down,
        "mid_block_type": "UNetMidBlock2DCrossAttn" if cross else "UNetMidBlock2D",
        "up_block_types": up,
        "num_class_embeds": config.num_classes,
        "norm_num_groups": config.norm_groups,
        "norm_eps": config.norm_eps,
        "resnet_time_scale_shift": "scale_shift" if scale_shift else "default",
        **_added(config),
        **(_conditional(config) if cross else _unconditional(config)),
    }


def _added(config: UNetConfig) -> Json:
    if config.added_dim is None:
        return {}
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": config.added_sinusoids,
        "projection_class_embeddings_input_dim": config.added_dim,
    }


def _block(way: str, cross: bool, attends: bool, res: bool) -> str:
    if attends:
        return f"CrossAttn{way}Block2D" if cross else f"Attn{way}Block2D"
    return f"Resnet{way}sampleBlock2D" if res else f"{way}Block2D"


def _conditional(config: UNetConfig) -> Json:
    """Write the number of heads as `attention_head_dim`, as everywhere in diffusers' conditional UNets."""
    return {
        "cross_attention_dim": config.context_dim,
        "attention_head_dim": _same(config.heads),
        "transformer_layers_per_block": _same(config.depth),
        "only_cross_attention": _same(config.only_cross_attention),
        "use_linear_projection": config.linear_projection,
        **({} if config.guidance_dim is None else {"time_cond_proj_dim": config.guidance_dim}),
    }


def _unconditional(config: UNetConfig) -> Json:
    attends = [i for i, attention in enumerate(config.attention) if attention]
    resampled = {"downsample_type": config.res_down, "upsample_type": config.res_up}
    options: Json = {
        name: "resnet" if any(levels[i : i + 1] == (True,) for i in attends) else "conv"
        for name, levels in resampled.items()
    }
    if config.mid_attention and config.mid_attention_norm and config.scale_shift_norm:
        options["attn_norm_num_groups"] = config.norm_groups
    return options | {
        "attention_head_dim": config.channels[-1] // config.mid_heads,
        "add_attention": config.mid_attention,
    }


def _same(values: tuple[Any, ...]) -> Any:
    return values[0] if len(set(values)) == 1 else list(values)


def autoencoder_json(config: AutoencoderConfig, scale_factor: float, latent_size: int | None) -> Json:
    """Write AutoencoderKL or VQModel."""
    down = ["AttnDownEncoderBlock2D" if a else "DownEncoderBlock2D" for a in config.attention]
    up = ["AttnUpDecoderBlock2D" if a else "UpDecoderBlock2D" for a in reversed(config.attention)]
    common = {
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "down_block_types": down,
        "up_block_types": up,
        "block_out_channels": list(config.channels),
        "layers_per_block": config.res_blocks,
        "act_fn": "silu",
        "latent_channels": config.z_channels,
        "norm_num_groups": config.norm_groups,
        "sample_size": (latent_size or 64) * config.factor,
        "scaling_factor": scale_factor,
        "mid_block_add_attention": config.mid_attention,
        "force_upcast": config.force_upcast,
    }
    if config.kind == "vq":
        embed = config.embed_dim
        return {"_class_name": "VQModel", **common, "num_vq_embeddings": config.codebook, "vq_embed_dim": embed}
    convs = {"use_quant_conv": config.quant_conv, "use_post_quant_conv": config.post_quant_conv}
    return {"_class_name": "AutoencoderKL", **common, **convs}


def tower_json(config: TowerConfig) -> Json:
    """Write BertModel, CLIPTextModel or LDMBertModel."""
    if config.kind == "ldm":
        return _ldm_bert(config)
    common = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.mlp,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "max_position_embeddings": config.positions,
        "hidden_act": config.activation,
        "layer_norm_eps": config.norm_eps,
    }
    if config.kind == "clip" and config.pooled is not None:
        ends = {"bos_token_id": config.end_token - 1, "eos_token_id": config.end_token}
        projection = {"model_type": "clip_text_model", "projection_dim": config.pooled}
        return {"architectures": ["CLIPTextModelWithProjection"], **projection, **common, **ends}
    if config.kind == "clip":
        return {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", **common}
    mask = {"use_attention_mask": config.masked}
    return {"architectures": ["BertModel"], "model_type": "bert", **common, "type_vocab_size": 2, **mask}


def _ldm_bert(config: TowerConfig) -> Json:
    return {
        "architectures": ["LDMBertModel"],
        "model_type": "ldmbert",
        "vocab_size": config.vocab_size,
        "d_model": config.width,
        "encoder_layers": config.layers,
        "encoder_attention_heads": config.heads,
        "head_dim": config.head_dim,
        "encoder_ffn_dim": config.mlp,
        "max_position_embeddings": config.positions,
        "activation_function": config.activation,
    }


def scheduler_json(config: ScheduleConfig, cls: str) -> Json:
    """Write a scheduler config; names that diffusers lacks are left for the caller's check to find."""
    return {
        "_class_name": cls,
        "num_train_timesteps": config.timesteps,
        "beta_schedule": BETAS.get(config.beta_schedule, "linear"),
        "beta_start": config.beta_start,
        "beta_end": config.beta_end,
        "trained_betas": None if config.trained_betas is None else list(config.trained_betas),
        "prediction_type": PREDICTIONS[config.prediction],
        "rescale_betas_zero_snr": config.zero_terminal_snr,
        "timestep_spacing": config.spacing if config.spacing in ("leading", "trailing", "linspace") else "leading",
        "steps_offset": config.steps_offset,
        "set_alpha_to_one": config.set_alpha_to_one,
        "clip_sample": config.clip is not None,
        "clip_sample_range": config.clip if config.clip is not None else 1.0,
    }
