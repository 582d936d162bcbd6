"""Diffusers folders: model_index.json names the components, each a folder with a config and weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.errors import CheckpointError
from models.checkpoints.checkpoint import Checkpoint
from models.checkpoints.files.foreign import refuse_pipeline
from models.checkpoints.files.rename import (
    BERT,
    BERT_IGNORED,
    CLIP,
    CLIP_IGNORED,
    CLIP_POOLED_IGNORED,
    DIFFUSERS,
    LDM_BERT,
    LDM_BERT_IGNORED,
    Renames,
    renamed,
)
from models.checkpoints.files.weights import read_json, read_weights
from models.checkpoints.layouts.diffusers.config import autoencoder_config, tower_config, unet_config
from models.checkpoints.layouts.diffusers.scheduler import read_scheduler
from models.checkpoints.towers import together
from models.checkpoints.variants import as_variant, folder_name, variant_of
from models.networks.conditioning import TextConfig, TowerConfig
from models.pipeline.config import Concat, ModelConfig
from models.schedule import ScheduleConfig
from models.tokenizers.prompts import PromptTokenizer, load_tokenizer

Json = dict[str, Any]
TOWERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2", "bert": "tokenizer"}  # each one's tokenizer
TEXT_RENAMES: Mapping[str, tuple[Renames, str]] = {
    "bert": (BERT, BERT_IGNORED),
    "clip": (CLIP, CLIP_IGNORED),
    "ldm": (LDM_BERT, LDM_BERT_IGNORED),
}
UPSCALER_SCALE = 0.08333  # old folders have 0.18215 or nothing
DEFAULT_SCALE = 0.18215  # of AutoencoderKL where its config says nothing
SD_SIZE, XL_SIZE = 64, 128  # of training latents
OLD = re.compile(r"0\.[0-8](\D|$)")  # versions of diffusers whose smaller size of Stable Diffusion its pipelines raise


def load_diffusers(folder: Path, *, data: bool = True) -> Checkpoint:
    """Read every component.

    Raises:
        CheckpointError: naming the file, option or component that doesn't fit.
    """
    index = read_json(folder / "model_index.json")
    refuse_pipeline(str(index.get("_class_name")), _has(index, "unet"), folder)
    vae_folder = folder / ("vae" if _has(index, "vae") else "vqvae")
    vae, unet = read_json(vae_folder / "config.json"), read_json(folder / "unet" / "config.json")
    pipeline = str(index.get("_class_name"))
    xl = unet.get("addition_embed_type") == "text_time"  # community pipelines of SDXL have names of their own
    towers = {
        name: tower_config(read_json(folder / name / "config.json"), xl=xl) for name in TOWERS if _has(index, name)
    }
    scheduler = read_scheduler(_scheduler(folder, "scheduler"), pipeline)
    config = ModelConfig(
        unet=unet_config(unet),
        first_stage=autoencoder_config(vae),
        schedule=scheduler.schedule,
        scale_factor=scale_factor(pipeline, vae),
        conditioner=TextConfig(tuple(towers.values())) if towers else None,
        zeros_for_no_prompt=xl and bool(index.get("force_zeros_for_empty_prompt", True)),
        concat=_concat(unet, vae, pipeline),
        low_res_schedule=_low_res(folder, index),
        latent_size=_latent_size(unet, pipeline, text=any(tower.kind == "clip" for tower in towers.values())),
    )
    read = {
        part: read_weights(place, data=data) for part, place in (("unet", folder / "unet"), ("first_stage", vae_folder))
    }
    states = {part: renamed(weights, DIFFUSERS) for part, weights in read.items()}
    if towers:
        read |= {name: read_weights(folder / name, data=data) for name in towers}
        named = [(tower, renamed(read[name], *_renames(tower))) for name, tower in towers.items()]
        states["conditioner"] = together(named)[1]
    origin = {id(value): key for weights in read.values() for key, value in weights.items()}
    tokenizers = _tokenizers(folder, index, towers)
    names = (folder_name(folder), folder_name(Path(str(index.get("_name_or_path", "")))))
    variant = variant_of(config, names, scheduler.sampler)
    return Checkpoint(
        as_variant(config, variant, scheduled=True),
        states,
        tokenizers,
        scheduler.notes,
        origin=origin,
        sampler=scheduler.sampler,
        levels=scheduler.levels,
        eta=scheduler.eta,
        variant=variant,
    )


def _has(index: dict[str, Any], component: str) -> bool:
    entry = index.get(component)
    return isinstance(entry, list) and entry[0] is not None


def _scheduler(folder: Path, name: str) -> dict[str, Any]:
    return read_json(folder / name / "scheduler_config.json")


def _low_res(folder: Path, index: dict[str, Any]) -> ScheduleConfig | None:
    has = _has(index, "low_res_scheduler")
    return ScheduleConfig.from_diffusers(_scheduler(folder, "low_res_scheduler")) if has else None


def scale_factor(pipeline: str, vae: dict[str, Any]) -> float:
    """Read the scale factor, but where the pipeline of diffusers knows better than old folders do."""
    if pipeline == "LDMSuperResolutionPipeline":  # never scales its latents, whatever the VQ config says
        return 1.0
    if pipeline == "StableDiffusionUpscalePipeline":
        return UPSCALER_SCALE
    said = vae.get("scaling_factor")
    # VQModel's default in diffusers is AutoencoderKL's, but LDM's folders, older than the option, were trained with 1.
    return float(said) if said is not None else 1.0 if vae.get("_class_name") == "VQModel" else DEFAULT_SCALE


def _latent_size(unet: Json, pipeline: str, *, text: bool) -> int | None:
    """Read the training latents' side; where nothing says it, that of Stable Diffusion with CLIP's text."""
    said = unet.get("sample_size")
    size = said[0] if isinstance(said, list) and len(set(said)) == 1 else said
    if isinstance(size, int):
        raised = pipeline.startswith("StableDiffusion") and OLD.match(str(unet.get("_diffusers_version")))
        return max(size, SD_SIZE) if raised else size
    if not text or "Upscale" in pipeline:
        return None
    return SD_SIZE if unet.get("addition_embed_type") is None else XL_SIZE


def _concat(unet: dict[str, Any], vae: dict[str, Any], pipeline: str) -> Concat | None:
    """Tell it by the channels beyond the latent's own; two-channel latents need the pipeline's name."""
    extra, z = unet["in_channels"] - unet["out_channels"], vae.get("vq_embed_dim") or vae["latent_channels"]
    known: dict[int, Concat | None] = {z: "source", 0: None, 3: "low-res", z + 1: "mask-latent", 1: "depth"}
    if "SuperResolution" in pipeline or "Upscale" in pipeline:
        known[3] = "low-res"
    if "InstructPix2Pix" in pipeline:
        known[z] = "source"
    if extra not in known:
        raise CheckpointError(
            f"unet: in_channels {unet['in_channels']} is {extra} more than the latent's; "
            f"known are 0, {z + 1} (inpainting), 3 (low-resolution picture), {z} (InstructPix2Pix) and 1 (depth)",
            field="in_channels",
            value=unet["in_channels"],
        )
    return known[extra]


def _renames(tower: TowerConfig) -> tuple[Renames, str]:
    return TEXT_RENAMES[tower.kind] if tower.pooled is None else (CLIP, CLIP_POOLED_IGNORED)


def _tokenizers(folder: Path, index: Json, towers: Mapping[str, TowerConfig]) -> tuple[PromptTokenizer, ...]:
    names = {name: TOWERS[name] for name in towers if _has(index, TOWERS[name])}
    read = [(folder / own, towers[name]) for name, own in names.items()]
    found = [load_tokenizer(path, tower.positions) for path, tower in read]
    return tuple(found) if len(found) == len(towers) else ()
