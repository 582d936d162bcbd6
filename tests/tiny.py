"""Complete checkpoints of a few kilobytes with random weights, for tests that need a model and not its pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from models.checkpoints.card import weights_hash, write_card
from models.checkpoints.checkpoint import Checkpoint
from models.checkpoints.layouts.native import save_native
from models.networks.autoencoder import Autoencoder, AutoencoderConfig
from models.networks.conditioning import ClassConfig, RescalerConfig, TextConfig, TowerConfig
from models.networks.make import make_conditioner
from models.networks.unet import UNet, UNetConfig
from models.pipeline.config import ModelConfig
from models.schedule import ScheduleConfig
from models.tokenizers.prompts import PromptTokenizer, padded
from models.tokenizers.vocabularies import bert_tokenizer

WINDOW = 32
CLASSES, MAP_CLASSES = 10, 6
LAYOUT_VOCABULARY, LAYOUT_LENGTH = 102, 11  # corners on a grid of 10 × 10; three boxes and a crop
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("a", "red", "green", "blue", "heart", "cat", "star", "on", "navy", "background")
SAMPLERS = ("ddim", "ddpm", "plms", "euler", "dpmpp_2m", "unipc")
COMMON = (
    "num_images",
    "output_format",
    "priority",
    "deadline_ms",
    "determinism",
    "preview_every",
    "webhook_url",
    "seed",
)
DRAWN = ("prompt", "negative_prompt", "width", "height", "steps", "guidance_scale", "sampler", "eta", "strength")
SCHEDULE = ScheduleConfig(
    prediction="v", zero_terminal_snr=True, spacing="trailing", steps_offset=0, set_alpha_to_one=True
)


def write_tiny_inpaint(folder: Path) -> Path:
    """A 9-channel text and inpainting model: f = 8, native size 64, BERT tokenizer and encoder. Returns `folder`."""
    tokenizer = tiny_tokenizer()
    config = ModelConfig(
        unet=_unet(in_channels=9, out_channels=4, context_dim=16),
        first_stage=_first_stage("kl", levels=4, z=4),
        schedule=SCHEDULE,
        scale_factor=1.0,
        conditioner=_text(),
        concat="mask-latent",
    )
    save_native(random_weights(config, 0, tokenizer), folder)
    fields = (*DRAWN, "image", "mask", "mask_mode", "feather", *COMMON)
    text_card = {"token_window": WINDOW, "tokenizer": "tokenizer/tokenizer.json"}
    return _write_card(folder, ("txt2img", "inpaint"), fields, latent_factor=8, guidance_scale=4.0, **text_card)


def write_tiny_upscale(folder: Path) -> Path:
    """A ×4 super-resolution model: VQ first stage with f = 4, 6 input channels. Returns `folder`."""
    config = ModelConfig(
        unet=_unet(in_channels=6, out_channels=3, context_dim=None),
        first_stage=_first_stage("vq", levels=3, z=3),
        schedule=SCHEDULE,
        scale_factor=1.0,
        concat="low-res",
    )
    save_native(random_weights(config, 0), folder)
    fields = ("image", "steps", "sampler", "eta", *COMMON)
    return _write_card(folder, ("upscale",), fields, latent_factor=4, guidance_scale=1.0, scale=4)


def write_tiny(kind: str, folder: Path, seed: int = 0) -> Path:
    """A checkpoint of one of the kinds of `configs`, with the card that scanning writes. Returns `folder`."""
    return write_model(configs()[kind], folder, seed)


def write_model(config: ModelConfig, folder: Path, seed: int = 0) -> Path:
    """A checkpoint of this shape, with the card that scanning writes. Returns `folder`."""
    text = isinstance(config.conditioner, TextConfig) and config.layout is None
    loaded = random_weights(config, seed, *((tiny_tokenizer(),) if text else ()))
    save_native(loaded, folder)
    write_card(loaded, folder, folder, folder.name)
    return folder


def configs() -> dict[str, ModelConfig]:
    """The kinds of the paper and of Stable Diffusion, each at 64 pixels."""
    text = _text()
    kl, vq = _first_stage("kl", levels=3, z=4), _first_stage("vq", levels=3, z=3)
    plain = ModelConfig(_unet(4, 4, 16), kl, SCHEDULE, scale_factor=0.2, conditioner=text, latent_size=16)
    bare = replace(plain, unet=_unet(3, 3, None), first_stage=vq, scale_factor=1.0, conditioner=None)
    rescaler = RescalerConfig(in_channels=MAP_CLASSES, out_channels=3, stages=2)
    return {
        "plain": plain,
        "plain-vq": replace(plain, unet=_unet(3, 3, 16), first_stage=vq, scale_factor=1.0),
        "sd-inpaint": replace(plain, unet=_unet(9, 4, 16), concat="mask-latent"),
        "ldm-inpaint": replace(bare, unet=_unet(7, 3, None), concat="latent-mask"),
        "x4": replace(
            plain, unet=_unet(7, 4, 16, classes=1000), concat="low-res", low_res_schedule=SCHEDULE, latent_size=None
        ),
        "class": replace(plain, conditioner=ClassConfig(CLASSES + 1, 16)),
        "label": replace(bare, unet=_unet(3, 3, None, classes=CLASSES)),
        "layout": replace(plain, unet=_unet(3, 3, 16), first_stage=vq, scale_factor=1.0, conditioner=_layout()),
        "map": replace(bare, unet=_unet(6, 3, None), conditioner=rescaler, concat="map"),
        "bare": bare,
        "edit": replace(plain, unet=_unet(8, 4, 16), concat="source"),
        "depth": replace(plain, unet=_unet(5, 4, 16), concat="depth"),
    }


def random_weights(config: ModelConfig, seed: int, *tokenizers: PromptTokenizer) -> Checkpoint:
    """A checkpoint of this shape with torch's default initialisation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        modules: dict[str, torch.nn.Module] = {
            "unet": UNet(config.unet),
            "first_stage": Autoencoder(config.first_stage),
        }
        if config.conditioner is not None:
            modules["conditioner"] = make_conditioner(config.conditioner)
    return Checkpoint(config, {name: dict(module.state_dict()) for name, module in modules.items()}, tokenizers)


def tiny_tokenizer() -> PromptTokenizer:
    """Lower-casing WordPiece over single characters and a few words, with BERT's special tokens."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + [str(d) for d in range(10)] + list(".,!?'-")
    pieces = dict.fromkeys([*SPECIAL, *WORDS, *letters, *(f"##{c}" for c in letters)])
    vocab = {token: i for i, token in enumerate(pieces)}
    return padded(bert_tokenizer(vocab), WINDOW, "[PAD]")


def _layout() -> TextConfig:
    tower = TowerConfig(
        kind="ldm",
        vocab_size=LAYOUT_VOCABULARY,
        width=16,
        layers=2,
        heads=2,
        head_dim=8,
        mlp=64,
        positions=LAYOUT_LENGTH,
        boxes=True,
    )
    return TextConfig((tower,))


def _text() -> TextConfig:
    tower = TowerConfig(
        kind="bert",
        vocab_size=tiny_tokenizer().tokenizer.get_vocab_size(),
        width=16,
        layers=1,
        heads=2,
        head_dim=8,
        mlp=32,
        positions=WINDOW,
        masked=True,
    )
    return TextConfig((tower,))


def _unet(in_channels: int, out_channels: int, context_dim: int | None, classes: int | None = None) -> UNetConfig:
    return UNetConfig(
        in_channels=in_channels,
        out_channels=out_channels,
        channels=(8, 16),
        res_blocks=1,
        attention=(False, False),
        heads=(1, 1),
        mid_heads=1,
        mid_attention=context_dim is not None,
        context_dim=context_dim,
        depth=(1, 1),
        only_cross_attention=(False, False),
        num_classes=classes,
        norm_groups=4,
    )


def _first_stage(kind: Any, levels: int, z: int) -> AutoencoderConfig:
    return AutoencoderConfig(
        kind=kind,
        channels=(4,) * levels,
        stem=4,
        z_channels=z,
        embed_dim=z,
        res_blocks=1,
        attention=(False,) * levels,
        mid_attention=False,
        norm_groups=2,
        codebook=32 if kind == "vq" else 0,
    )


def _write_card(
    folder: Path, tasks: tuple[str, ...], fields: tuple[str, ...], *, guidance_scale: float, **more: Any
) -> Path:
    defaults = {"steps": 4, "sampler": "ddim", "guidance_scale": guidance_scale, "eta": 0.0, "strength": 1.0}
    card = {
        "id": folder.name,
        "description": "Random weights, for tests.",
        "hash": weights_hash(folder),
        "tasks": tasks,
        "native_size": 64,
        "defaults": defaults,
        "fields": fields,
        "prediction_type": "v",
        "samplers": SAMPLERS,
        "licence": "Apache-2.0",
        **more,
    }
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n", "utf-8")
    return folder
