"""Whole models in CompVis's layout: LDM .ckpt files and SD 1.x and 2.x single files, with or without their config."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from core.errors import CheckpointError
from models.checkpoints.build import State
from models.checkpoints.checkpoint import Checkpoint
from models.checkpoints.files.foreign import refuse_family, what_it_is
from models.checkpoints.files.rename import below
from models.checkpoints.layouts.compvis.conditioner import read_conditioner, read_embedders
from models.checkpoints.layouts.compvis.ema import averaged, averaged_alone, has_average
from models.checkpoints.layouts.compvis.families import LAYOUT_TOKENS, UNSURE, V_SIZE, Family, family_of
from models.checkpoints.layouts.compvis.first_stage import read_first_stage
from models.checkpoints.layouts.compvis.prediction import ZERO_SNR_MARKER, told_by_scaling, told_prediction
from models.checkpoints.layouts.compvis.schedule import read_schedule
from models.checkpoints.layouts.compvis.sgm import sinusoids, unet_params
from models.checkpoints.layouts.compvis.single_file import SingleFile, is_alone
from models.checkpoints.layouts.compvis.unet import ADDED, read_unet
from models.checkpoints.variants import as_variant, folder_name, variant_of
from models.networks.autoencoder import AutoencoderConfig
from models.networks.conditioning import CLIP_VOCABULARY, Conditioner, RescalerConfig, TextConfig, TowerConfig
from models.networks.unet import UNetConfig
from models.pipeline.config import Concat, ModelConfig
from models.schedule import ScheduleConfig
from models.tokenizers.prompts import (
    TOKENIZERS,
    PromptTokenizer,
    load_tokenizer,
    load_vocabulary,
    shipped_bert,
    shipped_clip,
)
from models.tokenizers.vocabularies import CLIP_END

UNET, FIRST_STAGE, CONDITIONER = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."
TITLES = ("modelspec.title", "modelspec.architecture", "ss_output_name")  # a header's names of the model
XL_CONDITIONER, SOLE_TOWER = "conditioner.", "embedders.0."
BERT_VOCABULARY = 30_522  # of which, as of CLIP's, a tokenizer is shipped
MAX_ADDED = 1000  # tokens that a fine-tuning added behind CLIP's; no file tells their names
OPEN_CLIP_PAD = "!"  # token 0
LOW_RES_BETAS = (1e-4, 2e-2)  # of the SD x4 upscaler's noise augmentation
Params = Mapping[str, Any]


NO_FIRST_STAGE = (
    f"has no first stage ({FIRST_STAGE}*): put a VAE beside it as NAME.vae.safetensors, or name one of the folder VAE "
    'in its card as "vae"'
)
FirstStage = tuple[AutoencoderConfig, State]


def load_compvis(file: SingleFile, *, lacking: FirstStage | None = None) -> Checkpoint:
    """Read a whole model; `lacking` is the first stage of a file that has none.

    Raises:
        CheckpointError: naming the file and the key, shape or config field that doesn't fit.
    """
    try:
        return _load(file, lacking)
    except CheckpointError as error:
        raise CheckpointError(f"{file.path}: {error.detail}", field=error.field, value=error.value) from error


def _load(file: SingleFile, lacking: FirstStage | None) -> Checkpoint:
    params: Params = file.config.get("model", {}).get("params", {})
    unet_state, conditioner = _networks(file.state, lacking)
    family = family_of(unet_state, conditioner)
    if _draws_by_average(file.state, params, family):
        unet_state = averaged(file.state, unet_state)
    unet, unet_weights = read_unet(unet_state, unet_params(params) or family.heads())
    first, first_weights = lacking or read_first_stage(below(file.state, FIRST_STAGE))
    if family.xl:
        unet = replace(unet, added_sinusoids=sinusoids(params))
    text, text_weights = _conditioner(conditioner, file.config, params, first) or (None, None)
    schedule, unsure = _schedule(file, params, family)
    config = _config(file.state, params, family, unet, first, text, schedule)
    variant = variant_of(config, _names(file))
    config = as_variant(config, variant, scheduled=False)
    tokenizers = _tokenizers(file, config.conditioner)
    if not tokenizers:
        config = replace(config, conditioner=_told_boxes(config.conditioner, _params(params, "cond_stage_config")))
    states = {"unet": unet_weights, "first_stage": first_weights}
    return Checkpoint(
        config,
        states | ({} if text_weights is None else {"conditioner": text_weights}),
        tokenizers,
        (() if params else family.assumptions()) + ((UNSURE,) if unsure else ()),
        prediction_assumed=unsure,
        origin={id(value): key for key, value in file.state.items()},
        sampler="euler" if family.xl else None,
        variant=variant,
    )


def _networks(state: State, lacking: FirstStage | None) -> tuple[State, State]:
    """Take the weights of UNet and conditioner, the second empty where there is none.

    Raises:
        CheckpointError: it is no whole model, or one of a family that latentd doesn't run.
    """
    unet = below(state, UNET) or averaged_alone(state)
    conditioner = below(state, CONDITIONER) or below(state, XL_CONDITIONER)
    if ADDED not in unet:  # SD Turbo: Stable Diffusion 2 as SDXL's code saves it
        conditioner = below(conditioner, SOLE_TOWER) or conditioner
    whole = bool(below(state, FIRST_STAGE) or lacking)
    if unet and conditioner and not whole:
        refuse_family(state)
        raise CheckpointError(NO_FIRST_STAGE, field="vae")
    if not unet or not whole:
        raise CheckpointError(f"lacks {UNET}* or {FIRST_STAGE}*; not a whole latent diffusion model{what_it_is(state)}")
    refuse_family(state)
    return unet, conditioner


def _draws_by_average(state: State, params: Params, family: Family) -> bool:
    """Tell whether the UNet's moving average draws, as the original's scripts do."""
    wanted = bool(params.get("use_ema", True) if params else family.ema)
    return wanted and has_average(state) and bool(below(state, UNET))


def _config(
    state: State,
    params: Params,
    family: Family,
    unet: UNetConfig,
    first: AutoencoderConfig,
    text: Conditioner | None,
    schedule: ScheduleConfig,
) -> ModelConfig:
    config = ModelConfig(
        unet=unet,
        first_stage=first,
        schedule=schedule,
        scale_factor=_scale_factor(state, params, family, first),
        conditioner=text,
        concat=_concat(unet, first, text),
        low_res_schedule=_low_res(params, unet),
        latent_size=params.get("image_size", family.latent_size(schedule.prediction)),
    )
    # Nobody reads it: InstructPix2Pix's config says 16, that of SD 2's v model 64, which was trained on 96.
    if config.concat == "source" or family.latent_size(schedule.prediction) == V_SIZE:
        config = replace(config, latent_size=family.latent_size(schedule.prediction))
    return replace(config, zeros_for_no_prompt=not config.refines) if family.xl else config


def _names(file: SingleFile) -> tuple[str, ...]:
    """Return what the model is called: by its file, by a folder of its own, and in its header."""
    own = (folder_name(file.path.parent),) if is_alone(file.path) else ()
    return (file.path.stem, *own, *(file.metadata.get(key, "") for key in TITLES))


def _params(params: Params, part: str) -> Params:
    config = params.get(part, {})
    return config.get("params", {}) if isinstance(config, Mapping) else {}


def _conditioner(
    state: State, config: Mapping[str, Any], params: Params, first: AutoencoderConfig
) -> tuple[Conditioner, State] | None:
    heads = [config.get(tower, {}).get("heads") for tower in ("text_encoder", "text_encoder_2")]
    if any(key.startswith("embedders.") for key in state):
        return read_embedders(state, heads if "embedders.1.model.ln_final.weight" in state else heads[1:])
    stages = len(first.channels) - 1
    return read_conditioner(state, _params(params, "cond_stage_config"), stages, heads[0])


def _tokenizers(file: SingleFile, text: Conditioner | None) -> tuple[PromptTokenizer, ...]:
    """Find one for every tower; none where one lacks it."""
    towers = text.towers if isinstance(text, TextConfig) else ()
    found = [_tokenizer(file, tower, name) for tower, name in zip(towers, TOKENIZERS, strict=False)]
    return tuple(tokenizer for tokenizer in found if tokenizer is not None) if None not in found else ()


def _tokenizer(file: SingleFile, text: TowerConfig, name: str) -> PromptTokenizer | None:
    """Read what stands beside the file, or else the shipped vocabulary of this size."""
    folder = file.path.parent
    if (folder / name).is_dir():
        return load_tokenizer(folder / name, text.positions)
    if text.kind != "clip" and (folder / "vocab.txt").is_file():  # words of BERT's, which CLIP's weights don't know
        return load_vocabulary(folder / "vocab.txt", text.positions)
    if text.kind == "clip" and 0 <= text.vocab_size - CLIP_VOCABULARY <= MAX_ADDED:
        pad = CLIP_END if text.activation == "quick_gelu" else OPEN_CLIP_PAD
        return shipped_clip(text.positions, pad)
    return shipped_bert(text.positions) if text.vocab_size == BERT_VOCABULARY else None


def _told_boxes(text: Conditioner | None, params: Params) -> Conditioner | None:
    """Mark a text transformer that reads boxes, by its config or its vocabulary, which no tokenizer has."""
    if not isinstance(text, TextConfig) or text.kind != "ldm":
        return text
    (tower,) = text.towers
    boxes = not params.get("use_tokenizer", tower.vocab_size != LAYOUT_TOKENS)
    return TextConfig((replace(tower, boxes=boxes),))


def _schedule(file: SingleFile, params: Params, family: Family) -> tuple[ScheduleConfig, bool]:
    """Make the schedule, and tell whether nothing says what the network predicts."""
    configured = "linear_start" in params or "linear_end" in params
    found = ScheduleConfig.from_compvis(params) if configured else read_schedule(file.state) or family.schedule()
    said = params.get("parameterization") or told_prediction(file) or told_by_scaling(params)
    if said is None:
        said = found.prediction if configured else family.told(file.global_step)
    found = replace(found, prediction=said or "v")
    if ZERO_SNR_MARKER in file.state:  # its last timestep must be visited (Lin et al. 2024, §3.3)
        found = replace(found, zero_terminal_snr=True, spacing="trailing")
    return found, said is None


def _scale_factor(state: Mapping[str, Tensor], params: Params, family: Family, first: AutoencoderConfig) -> float:
    """Take the buffer (scale_by_std) before the config before what the family is known to have."""
    if "scale_factor" in state:
        return float(state["scale_factor"])
    if params:
        return float(params.get("scale_factor", 1.0))
    return family.scale_factor if first.kind == "kl" else 1.0


def _concat(unet: UNetConfig, first: AutoencoderConfig, conditioner: Conditioner | None) -> Concat | None:
    extra = unet.in_channels - unet.out_channels
    if extra == 0:
        return None
    if isinstance(conditioner, RescalerConfig) and extra == (conditioner.out_channels or conditioner.in_channels):
        return "map"
    if extra == first.embed_dim + 1:
        return "mask-latent" if isinstance(conditioner, TextConfig) else "latent-mask"
    if extra == first.in_channels:
        return "low-res"
    if isinstance(conditioner, TextConfig) and extra in (1, first.embed_dim):
        return "depth" if extra == 1 else "source"
    raise CheckpointError(
        f"unet: takes {unet.in_channels} channels, {extra} more than the latent's; known are 0, "
        f"{first.embed_dim + 1} (inpainting), {first.in_channels} (low-resolution picture) and with text "
        f"{first.embed_dim} (InstructPix2Pix) and 1 (depth)",
        field="in_channels",
        value=unet.in_channels,
    )


def _low_res(params: Params, unet: UNetConfig) -> ScheduleConfig | None:
    """Return the noise schedule where class labels beside a small picture are noise levels: the SD x4 upscaler."""
    if unet.num_classes is None or unet.in_channels - unet.out_channels != 3:
        return None
    noise = _params(_params(params, "low_scale_config"), "noise_schedule_config")
    start, end = noise.get("linear_start", LOW_RES_BETAS[0]), noise.get("linear_end", LOW_RES_BETAS[1])
    if not math.isfinite(start + end):
        raise CheckpointError("low_scale_config: linear_start and linear_end must be finite")
    return ScheduleConfig(beta_schedule="scaled_linear", beta_start=float(start), beta_end=float(end))
