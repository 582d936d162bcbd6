"""Diffusers folders written from the internal form; what diffusers has no pipeline or option for is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from core.errors import CheckpointError
from models.checkpoints.build import State, split
from models.checkpoints.checkpoint import Checkpoint, fitted
from models.checkpoints.files.rename import TO_BERT, TO_DIFFUSERS, TO_LDM_BERT, renamed
from models.checkpoints.layouts.diffusers.config import autoencoder_config, tower_config, unet_config
from models.checkpoints.layouts.diffusers.config_writer import autoencoder_json, scheduler_json, tower_json, unet_json
from models.checkpoints.layouts.diffusers.reader import TOWERS, scale_factor
from models.checkpoints.towers import apart
from models.networks.conditioning import TextConfig, TowerConfig
from models.pipeline.config import ModelConfig
from models.schedule import ScheduleConfig
from models.tokenizers.prompts import save_tokenizer

Json = dict[str, Any]
TEXT_RENAMES = {"bert": TO_BERT, "clip": (), "ldm": TO_LDM_BERT}
TOKENIZERS = {"bert": "BertTokenizer", "clip": "CLIPTokenizer", "ldm": "BertTokenizer"}
CONSISTENCY = "LatentConsistencyModelPipeline"
SCHEDULERS = {CONSISTENCY: "LCMScheduler"}  # but for SDXL's, all others get DDIM's
EDITS = {"source": "StableDiffusionInstructPix2PixPipeline", "depth": "StableDiffusionDepth2ImgPipeline"}
LDM_NAMES = {"vae": "vqvae", "text_encoder": "bert"}  # what LDM pipelines call their components


def save_diffusers(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a diffusers folder, weights in the precision they have.

    Raises:
        CheckpointError: naming what diffusers can't express; nothing is written then.
    """
    pipeline = pipeline_class(checkpoint.config)
    parts = components(checkpoint, pipeline)
    for name, (config, state) in parts.items():
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        scheduler = name.endswith("scheduler")
        _write_json(target / ("scheduler_config.json" if scheduler else "config.json"), config)
        if state is not None:
            stem = "model" if name in TOWERS else "diffusion_pytorch_model"
            whole = {key: value.contiguous() for key, value in state.items()}
            save_file(whole, target / f"{stem}.safetensors", metadata={"format": "pt"})
    index = _index(pipeline, parts)
    text = checkpoint.config.conditioner
    towers = [TOWERS[name] for name in parts if name in TOWERS]
    for name, tokenizer in zip(towers, checkpoint.tokenizers, strict=False):
        assert isinstance(text, TextConfig)
        save_tokenizer(tokenizer, folder / name, TOKENIZERS[text.kind])
        index[name] = ["transformers", TOKENIZERS[text.kind]]
    _write_json(folder / "model_index.json", index | _xl_index(checkpoint.config, index))


def pipeline_class(config: ModelConfig) -> str:
    """Tell which of diffusers' pipelines a model is.

    Raises:
        CheckpointError: it is none.
    """
    text = isinstance(config.conditioner, TextConfig)
    if config.layout is not None or (config.conditioner is not None and not text):
        raise CheckpointError("diffusers has no pipeline for class labels, label maps and boxes; convert --to native")
    if config.unet.added_dim is not None and config.concat in (None, "mask-latent"):
        inpaints = "Inpaint" if config.concat else ""
        return f"StableDiffusionXL{'Img2Img' if config.refines else inpaints}Pipeline"
    if text and config.concat in EDITS:
        return EDITS[config.concat]
    if text and config.concat is None:
        if config.unet.guidance_dim is not None:
            return CONSISTENCY
        ldm = isinstance(config.conditioner, TextConfig) and config.conditioner.kind == "ldm"
        return "LDMTextToImagePipeline" if ldm else "StableDiffusionPipeline"
    if text and config.concat == "mask-latent":
        return "StableDiffusionInpaintPipeline"
    if config.concat == "low-res":
        return "StableDiffusionUpscalePipeline" if text else "LDMSuperResolutionPipeline"
    if config.concat is None:
        return "LDMPipeline"
    raise CheckpointError(f"diffusers has no pipeline for a UNet that reads {config.concat}; convert --to native")


def components(checkpoint: Checkpoint, pipeline: str) -> dict[str, tuple[Json, State | None]]:
    """Make config and weights (schedulers have none) of every component.

    Raises:
        CheckpointError: as `save_diffusers` does.
    """
    config, states = checkpoint.config, fitted(checkpoint)
    xl = config.unet.added_dim is not None
    own = "EulerDiscreteScheduler" if xl else "DDIMScheduler"
    ldm = LDM_NAMES if pipeline.startswith("LDM") else {}
    unet = _agreeing(unet_json(config.unet, config.latent_size), config.unet, unet_config, "unet")
    vae = autoencoder_json(config.first_stage, config.scale_factor, config.latent_size)
    vae = _agreeing(vae, config.first_stage, autoencoder_config, "first stage")
    if (scale := scale_factor(pipeline, vae)) != config.scale_factor:
        detail = f"scale_factor is {config.scale_factor}; {pipeline} scales every model's latents by {scale}"
        raise CheckpointError(f"{detail}; convert --to native", field="scale_factor", value=config.scale_factor)
    parts: dict[str, tuple[Json, State | None]] = {
        "unet": (unet, _unet_state(states["unet"], config)),
        ldm.get("vae", "vae"): (vae, renamed(split(states["first_stage"]), TO_DIFFUSERS)),
        "scheduler": (_schedule(config.schedule, SCHEDULERS.get(pipeline, own)), None),
    }
    if config.low_res_schedule is not None:
        parts["low_res_scheduler"] = (_schedule(config.low_res_schedule, "DDPMScheduler"), None)
    if isinstance(config.conditioner, TextConfig):
        # A lone tower of SDXL, the refiner's, is the second.
        names = ("text_encoder_2",) if config.refines else (ldm.get("text_encoder", "text_encoder"), "text_encoder_2")
        read = partial(tower_config, xl=xl)
        for name, (tower, state) in zip(names, apart(config.conditioner, states["conditioner"]), strict=False):
            parts[name] = (_agreeing(tower_json(tower), tower, read, "text encoder"), _text_state(state, tower))
    return parts


def _schedule(config: ScheduleConfig, cls: str) -> Json:
    return _agreeing(scheduler_json(config, cls), config, ScheduleConfig.from_diffusers, "scheduler")


def _agreeing(written: Json, config: Any, read: Any, what: str) -> Json:
    """Return `written` if reading it gives `config` again; otherwise diffusers has no words for some option."""
    again = read(written)
    for f in fields(config):
        wanted, got = getattr(config, f.name), getattr(again, f.name)
        if wanted != got:
            raise CheckpointError(f"{what}: diffusers can't express {f.name} {wanted}; convert --to native")
    return written


def _unet_state(state: State, config: ModelConfig) -> State:
    names = renamed(split(state), TO_DIFFUSERS)
    if config.unet.linear_projection:
        return names
    # Old checkpoints project by 1×1 convolutions.
    projections = ("proj_in.weight", "proj_out.weight")
    spatial = {key for key in names if key.endswith(projections) and ".ff." not in key}
    return {key: value[:, :, None, None] if key in spatial else value for key, value in names.items()}


def _text_state(state: Mapping[str, Tensor], text: TowerConfig) -> State:
    names = renamed(split(state), TEXT_RENAMES[text.kind])
    if text.kind == "ldm":
        # A head that no pipeline reads, but diffusers' class has.
        like = names["model.embed_tokens.weight"]
        head = {"weight": torch.zeros_like(like), "bias": torch.zeros(len(like), dtype=like.dtype)}
        names |= {f"to_logits.{name}": value for name, value in head.items()}
    return names


def _index(pipeline: str, components: Mapping[str, tuple[Json, State | None]]) -> Json:
    index: Json = {"_class_name": pipeline}
    libraries = {"text_encoder": "transformers", "text_encoder_2": "transformers", "bert": "latent_diffusion"}
    for name, (config, _) in components.items():
        cls = config.get("_class_name") or config["architectures"][0]
        index[name] = [libraries.get(name, "diffusers"), cls]
    if pipeline.startswith("StableDiffusionXL"):
        return index | {"feature_extractor": [None, None]}
    if pipeline == EDITS["depth"]:
        return index | {"feature_extractor": [None, None], "depth_estimator": [None, None]}
    if pipeline.startswith("StableDiffusion") or pipeline == CONSISTENCY:
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
        index |= {} if pipeline.endswith("UpscalePipeline") else {"requires_safety_checker": False}
    return index


def _xl_index(config: ModelConfig, index: Json) -> Json:
    """Write what SDXL's pipelines want to know beside their components, of which a refiner lacks two."""
    if config.unet.added_dim is None:
        return {}
    scored = (
        {} if index["_class_name"] == "StableDiffusionXLPipeline" else {"requires_aesthetics_score": config.refines}
    )
    missing = {name: [None, None] for names in TOWERS.items() for name in names if name not in (*index, "bert")}
    return {
        "force_zeros_for_empty_prompt": config.zeros_for_no_prompt,
        "image_encoder": [None, None],
        **scored,
        **missing,
    }


def _write_json(path: Path, value: Json) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
